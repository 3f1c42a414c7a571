//! `vstar tables`: the tables of the paper on the base model's own concepts, as an HTTP client of a service of its own.
//!
//! Teaches every concept by every method, composes every pair, and writes the figures as Markdown with sheets of images. All
//! that has ended is kept in the folder for the results, so that a second run goes on where the first has stopped.

mod cell;
mod compression;
mod held_out;
mod ledger;
mod markdown;
mod pairs;
mod plain;
mod sheet;
mod single;
mod triples;
mod workshop;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use self::ledger::Ledger;
use self::workshop::Workshop;
use crate::client::Client;
use crate::demo::{ConceptPhotos, Progress, private_settings, read_concepts};
use crate::model_folder::ModelFolder;
use crate::serve::{Service, Signals};
use crate::stdout;

pub use self::pairs::ComposedBy;

/// The repository's concepts.
const CONCEPTS: [&str; 8] = ["dog", "cat", "chair", "turtle", "backpack", "vase", "gate", "robot"];

/// Which tables to make, of which concepts, and where to leave them.
#[derive(Clone, Debug, Args)]
pub struct TablesArgs {
    /// Folder for the results; made if it is not there. With the folder of an earlier run, this one goes on with it.
    #[arg(long, default_value = "tables-out")]
    out: PathBuf,
    /// Table to make; all if left out. May be repeated.
    #[arg(long, value_enum, value_name = "TABLE")]
    only: Vec<TableName>,
    /// Folder with concepts.json and a folder of photos per concept; the repository's own if left out.
    #[arg(long)]
    concepts: Option<PathBuf>,
    /// Concept that takes part; may be repeated.
    #[arg(long = "concept", value_name = "NAME", default_values = CONCEPTS)]
    names: Vec<String>,
    /// Pairs to compose, such as `cat+vase,chair+backpack`; all if left out.
    #[arg(long, value_delimiter = ',', value_name = "A+B")]
    pairs: Vec<String>,
    /// Triples to compose, such as `cat+vase+chair`; eight, in which each concept is three times, if left out.
    #[arg(long, value_delimiter = ',', value_name = "A+B+C")]
    triples: Vec<String>,
    /// Way of composing that is compared; all if left out. May be repeated.
    #[arg(long = "method", value_enum, value_name = "METHOD")]
    methods: Vec<ComposedBy>,
    /// Random seed of trainings and images; may be repeated.
    #[arg(long = "seed", value_name = "SEED", default_values_t = [1, 2])]
    seeds: Vec<u64>,
    /// Generate and evaluate images again with the deltas that are there, for example because the program has changed.
    #[arg(long)]
    again: bool,
    /// Images of each prompt.
    #[arg(long, default_value_t = 2)]
    images_per_prompt: usize,
    /// Folder with the binaries of Postgres. Searched for in the usual places if this is not set.
    #[arg(long, env = "VSTAR_PG_BIN")]
    pg_bin: Option<PathBuf>,
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableName {
    /// Each concept alone, by what is learned: everything as in the paper, the token alone (Textual Inversion), keys, values, low
    /// ranks.
    Single,
    /// Without augmentation, without regularization, with generated images for it (the paper's Table 3).
    Ablation,
    /// Two concepts in one image, by every way of composing.
    Pairs,
    /// Three concepts in one image.
    Triples,
    /// Deltas of fewer ranks: what they cost and what is left.
    Compression,
}

/// Makes the tables.
///
/// # Errors
/// A sentence about what is wrong with the arguments, or what the service answered.
pub async fn run(args: &TablesArgs) -> Result<()> {
    let concepts = read_concepts(args.concepts.as_deref(), &args.names)?;
    ensure!(args.images_per_prompt > 0, "--images-per-prompt is at least 1");
    let ledger = Ledger::open(&args.out)?;
    let settings = private_settings(&args.out.join("service"), args.pg_bin.as_deref());
    let service = Service::start(&settings).await?;
    let address = format!("http://{}", service.address);
    let progress = Progress::new(std::io::stdout().is_terminal());
    progress.say(&format!("vstar answers at {address}"));

    let model = ModelFolder::open(&settings.common.base_model_dir().map_err(anyhow::Error::msg)?)?;
    let mut signals = Signals::listen()?;
    let made = tokio::select! {
        made = make(&address, args, &concepts, &model, &ledger, &progress) => made,
        _ = signals.next() => Err(anyhow::anyhow!("stopped: run the same command again to go on")),
    };
    service.stop().await;
    made
}

async fn make(
    address: &str,
    args: &TablesArgs,
    concepts: &[ConceptPhotos],
    model: &ModelFolder,
    ledger: &Ledger,
    progress: &Progress,
) -> Result<()> {
    let client = Client::new(address);
    let workshop = Workshop::open(&client, args, concepts, model, ledger, progress).await?;
    let wanted = |table| args.only.is_empty() || args.only.contains(&table);
    let mut text = String::new();
    for table in TableName::value_variants() {
        if !wanted(*table) {
            continue;
        }
        let made = match table {
            TableName::Single => single::methods(&workshop).await?,
            TableName::Ablation => single::ablation(&workshop).await?,
            TableName::Pairs => pairs::table(&workshop, &chosen_pairs(args, concepts)?).await?,
            TableName::Triples => {
                triples::table(&workshop, &chosen_triples(args, concepts)?).await?
            }
            TableName::Compression => compression::table(&workshop).await?,
        };
        text += &made;
        text.push('\n');
        write(&args.out.join("tables.md"), &text)?;
    }
    stdout::print(&format!("\n{text}"))?;
    progress.say(&format!("done: tables.md and sheets are in {}", args.out.display()));
    Ok(())
}

/// The pairs of the arguments, or all.
fn chosen_pairs<'a>(
    args: &TablesArgs,
    concepts: &'a [ConceptPhotos],
) -> Result<Vec<[&'a ConceptPhotos; 2]>> {
    if !args.pairs.is_empty() {
        return args.pairs.iter().map(|text| named(text, concepts)).collect();
    }
    let first = concepts.iter().enumerate();
    Ok(first
        .flat_map(|(index, first)| concepts[index + 1..].iter().map(move |second| [first, second]))
        .collect())
}

/// The triples of the arguments, or as many as there are concepts: every concept with the first and the third after it, so that
/// each is in three of them.
fn chosen_triples<'a>(
    args: &TablesArgs,
    concepts: &'a [ConceptPhotos],
) -> Result<Vec<[&'a ConceptPhotos; 3]>> {
    if !args.triples.is_empty() {
        return args.triples.iter().map(|text| named(text, concepts)).collect();
    }
    let count = concepts.len();
    if count < 4 {
        return Ok(Vec::new());
    }
    let of = |first: usize| [0, 1, 3].map(|step| &concepts[(first + step) % count]);
    Ok((0..count).map(of).collect())
}

/// The concepts of `cat+vase`.
fn named<'a, const N: usize>(
    text: &str,
    concepts: &'a [ConceptPhotos],
) -> Result<[&'a ConceptPhotos; N]> {
    let found = text.split('+').map(|name| {
        let concept = concepts.iter().find(|concept| concept.name == name);
        concept.with_context(|| format!("`{text}`: there is no --concept {name}"))
    });
    let found: Vec<&ConceptPhotos> = found.collect::<Result<_>>()?;
    let count = found.len();
    match <[&ConceptPhotos; N]>::try_from(found) {
        Ok(found) => Ok(found),
        Err(_) => bail!("`{text}` has {count} concepts, {N} are needed, joined by +"),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concepts(names: &[&str]) -> Vec<ConceptPhotos> {
        let of = |name: &&str| ConceptPhotos {
            name: (*name).to_owned(),
            class_noun: (*name).to_owned(),
            is_known: true,
            photos: Vec::new(),
        };
        names.iter().map(of).collect()
    }

    #[test]
    fn concepts_are_joined_by_a_plus() {
        let all = concepts(&CONCEPTS);

        let pair: [&ConceptPhotos; 2] = named("cat+vase", &all).unwrap();
        assert_eq!(pair.map(|concept| concept.name.as_str()), ["cat", "vase"]);
        assert!(named::<2>("cat", &all).is_err() && named::<2>("cat+cow", &all).is_err());
        assert!(named::<3>("cat+vase", &all).is_err());
    }
}
