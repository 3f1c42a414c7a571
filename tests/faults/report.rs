//! Rounds of a fault: how many, at which moments, what they measured, and the table of all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::program;

/// A fault, and what must hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) must: &'static str,
    /// How often a long run lets it happen.
    pub(crate) times: u64,
}

/// The largest of each figure is reported, by its name such as `steps repeated`.
pub(crate) type Figures = BTreeMap<String, f64>;

/// A line of `rounds.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    fault: String,
    /// The digest of the program.
    program: String,
    round: u64,
    /// How often the fault happened in this round.
    times: u64,
    seconds: f64,
    figures: Figures,
    /// What did not hold.
    problem: Option<String>,
}

/// Whether each fault happens as often as the table says.
pub(crate) fn is_long() -> bool {
    std::env::var("VSTAR_FAULT_ROUNDS").is_ok_and(|rounds| rounds == "all")
}

/// Where everything is written.
pub(crate) fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/faults");
    std::fs::create_dir_all(folder.join("logs")).unwrap();
    folder
}

/// A run of one fault.
pub(crate) struct Run {
    pub(crate) fault: Fault,
}

/// One round, with its random moments.
pub(crate) struct Round {
    pub(crate) number: u64,
    state: std::cell::Cell<u64>,
}

impl Round {
    fn new(fault: &str, number: u64) -> Self {
        let seed = std::env::var("VSTAR_FAULT_SEED").ok().and_then(|seed| seed.parse().ok());
        let mut state: u64 = seed.unwrap_or(1u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
        for byte in fault.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self { number, state: std::cell::Cell::new(state) }
    }

    /// A number from 0 to 1 (SplitMix64).
    pub(crate) fn fraction(&self) -> f64 {
        self.state.set(self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.state.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number of steps from `from` until before `to`.
    pub(crate) fn step(&self, from: u64, to: u64) -> u64 {
        from + (self.fraction() * (to - from) as f64) as u64
    }

    /// A time of up to so many milliseconds.
    pub(crate) fn millis(&self, up_to: u64) -> Duration {
        Duration::from_millis((self.fraction() * up_to as f64) as u64)
    }
}

impl Run {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { fault }
    }

    /// How often the fault has still to happen.
    fn left(&self) -> u64 {
        let wanted = match std::env::var("VSTAR_FAULT_ROUNDS") {
            Ok(all) if all == "all" => self.fault.times,
            Ok(times) => times.parse().expect("VSTAR_FAULT_ROUNDS is a number or `all`"),
            Err(_) => 1,
        };
        if std::env::var_os("VSTAR_FAULT_RESUME").is_none() {
            return wanted;
        }
        let passed = lines().into_iter().filter(|line| {
            line.fault == self.fault.name
                && line.program == program::digest()
                && line.problem.is_none()
        });
        wanted.saturating_sub(passed.map(|line| line.times).sum())
    }

    /// Runs rounds, `width` of them at a time; in each of them the fault happens once.
    pub(crate) async fn rounds(
        &self,
        width: usize,
        round: impl AsyncFn(&Round) -> Result<Figures>,
    ) -> Result<()> {
        self.rounds_of(1, width, round).await
    }

    /// The same with rounds in each of which the fault happens `times` times.
    ///
    /// Goes on after a round that did not hold, to see whether it is the only one, and gives up after three.
    pub(crate) async fn rounds_of(
        &self,
        times: u64,
        width: usize,
        round: impl AsyncFn(&Round) -> Result<Figures>,
    ) -> Result<()> {
        let problems = AtomicUsize::new(0);
        let run = async |number: u64| {
            if problems.load(Ordering::Relaxed) >= 3 {
                return Ok(());
            }
            let began = Instant::now();
            let outcome = round(&Round::new(self.fault.name, number)).await;
            let problem = outcome.as_ref().err().map(|error| format!("{error:#}"));
            if let Some(problem) = &problem {
                problems.fetch_add(1, Ordering::Relaxed);
                eprintln!("{}, round {number}: {problem}", self.fault.name);
            }
            append(&Line {
                fault: self.fault.name.to_owned(),
                program: program::digest().to_owned(),
                round: number,
                times,
                seconds: round_to(began.elapsed().as_secs_f64(), 10.0),
                figures: outcome.unwrap_or_default(),
                problem,
            })
        };
        let rounds = self.left().div_ceil(times);
        let mut runs = futures::stream::iter((0..rounds).map(run)).buffer_unordered(width);
        while let Some(written) = runs.next().await {
            written?;
        }
        match problems.load(Ordering::Relaxed) {
            0 => Ok(()),
            count => bail!("{count} of at most {rounds} rounds did not hold"),
        }
    }

    /// Says in the table why a fault cannot be tried on this machine.
    pub(crate) fn skip(&self, why: &str) -> Result<()> {
        eprintln!("{} is left out: {why}", self.fault.name);
        Ok(())
    }
}

/// Figures of a round.
pub(crate) fn figures<const N: usize>(figures: [(&str, f64); N]) -> Figures {
    figures.into_iter().map(|(name, value)| (name.to_owned(), round_to(value, 100.0))).collect()
}

fn round_to(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

fn append(line: &Line) -> Result<()> {
    let path = folder().join("rounds.jsonl");
    let mut file = File::options().create(true).append(true).open(path)?;
    file.write_all(format!("{}\n", serde_json::to_string(line)?).as_bytes())
        .context("the round is not written")
}

fn lines() -> Vec<Line> {
    let text = std::fs::read_to_string(folder().join("rounds.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Writes the table of all rounds of this program.
pub(crate) fn write_table(faults: &[Fault]) -> Result<()> {
    let lines = lines();
    let mut table =
        String::from("| fault | times | held | must hold | worst |\n|---|---|---|---|---|\n");
    for fault in faults {
        let rounds: Vec<_> = lines
            .iter()
            .filter(|line| line.fault == fault.name && line.program == program::digest())
            .collect();
        let times: u64 = rounds.iter().map(|line| line.times).sum();
        let held: u64 =
            rounds.iter().filter(|line| line.problem.is_none()).map(|line| line.times).sum();
        let mut worst = Figures::new();
        for (name, value) in rounds.iter().flat_map(|line| &line.figures) {
            let largest = worst.entry(name.clone()).or_insert(*value);
            *largest = largest.max(*value);
        }
        let worst: Vec<_> = worst.iter().map(|(name, value)| format!("{value} {name}")).collect();
        table += &format!(
            "| {} | {} | {held} of {times} | {} | {} |\n",
            fault.what,
            fault.times,
            fault.must,
            worst.join(", ")
        );
    }
    Ok(std::fs::write(folder().join("table.md"), table)?)
}
