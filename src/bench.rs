//! `vstar bench`: one piece of the engine's work, timed on a model folder.
//!
//! The work, its shapes and the fields of the printed line are those of the PyTorch and OpenVINO programs that
//! `benches/compare` runs beside it.

mod args;
mod job;
mod memory;
mod work;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use serde::Serialize;

use self::args::Work;
use crate::config::NetworkPrecision;
use crate::engine::device::{compute_dtype, computing_in, device_named, dtype_named, free_bytes};
use crate::engine::ops::{InstructionSet, Precision};
use crate::stdout;

pub use self::args::BenchArgs;

/// Where and how the work is computed.
#[derive(Clone, Copy)]
struct Computing<'a> {
    device: &'a Device,
    dtype: DType,
    precision: Precision,
}

/// What is printed; seconds per call.
#[derive(Serialize)]
struct Report {
    engine: &'static str,
    what: Work,
    batch: usize,
    latent: usize,
    threads: usize,
    /// The CPU's, unless a GPU computes.
    #[serde(skip_serializing_if = "Option::is_none")]
    instruction_set: Option<&'static str>,
    dtype: &'static str,
    /// What products are computed in.
    precision: &'static str,
    seconds_median: f64,
    seconds_min: f64,
    seconds_max: f64,
    /// From the model's folder to the end of the first call.
    first_step_s: f64,
    peak_rss_mib: u64,
    /// What the process has taken of a GPU's memory. The device's pool keeps what is freed, so this is the most that was
    /// in use at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_device_mib: Option<u64>,
    #[serde(flatten)]
    beside: Option<Beside>,
}

/// The same for what the work is measured beside, call by call.
#[derive(Serialize)]
struct Beside {
    beside: &'static str,
    beside_seconds_median: f64,
}

/// Runs the benchmark and prints its line.
///
/// # Errors
/// A folder that does not load, or a size that the model does not take.
pub fn run(args: &BenchArgs) -> Result<()> {
    ensure!(
        args.repeat > 0 && args.batch > 0 && args.latent > 0,
        "--batch, --latent and --repeat start at 1"
    );
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build_global()
        .context("thread pool")?;
    let start = Instant::now();
    let device = device_named(&args.device)?;
    let wanted = args.precision.map(NetworkPrecision::as_str);
    if args.what == Work::Memory {
        let dtype = wanted.map_or(Ok(compute_dtype(&device)), dtype_named)?;
        let of_gpu = dtype != DType::F32;
        let report = memory::report(args, dtype, device.is_cpu() && !of_gpu)?;
        return stdout::line(&serde_json::to_string(&report)?);
    }
    let (dtype, precision) = computing_in(&device, wanted)?;
    let precision = if args.exact { Precision::Exact } else { precision };
    let computing = Computing { device: &device, dtype, precision };
    if args.what == Work::Job {
        return stdout::line(&serde_json::to_string(&job::run(args, computing)?)?);
    }
    let free_before = free_bytes(&device);
    let mut work = work::prepare(args, computing)?;
    time(&device, &mut work.call)?;
    let first_step_s = start.elapsed().as_secs_f64();
    if let Some((_, call)) = &mut work.beside {
        time(&device, call)?;
    }
    let (mut seconds, mut beside_seconds) = (Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        seconds.push(time(&device, &mut work.call)?);
        if let Some((_, call)) = &mut work.beside {
            beside_seconds.push(time(&device, call)?);
        }
    }
    seconds.sort_by(f64::total_cmp);
    beside_seconds.sort_by(f64::total_cmp);
    let report = Report {
        engine: "vstar",
        what: args.what,
        batch: args.batch,
        latent: args.latent,
        threads: args.threads,
        instruction_set: device.is_cpu().then(|| InstructionSet::used().as_str()),
        dtype: dtype.as_str(),
        precision: match precision {
            Precision::Exact | Precision::Fast => dtype.as_str(),
            Precision::Bf16 => DType::BF16.as_str(),
        },
        seconds_median: median(&seconds),
        seconds_min: seconds[0],
        seconds_max: seconds[seconds.len() - 1],
        first_step_s,
        peak_rss_mib: memory_mib("VmHWM")?,
        peak_device_mib: taken_mib(free_before, free_bytes(&device)),
        beside: work
            .beside
            .map(|(beside, _)| Beside { beside, beside_seconds_median: median(&beside_seconds) }),
    };
    stdout::line(&serde_json::to_string(&report)?)?;
    Ok(())
}

/// Seconds until the device has finished a call: on a GPU the call itself only queues its kernels.
fn time(device: &Device, call: &mut work::Call) -> Result<f64> {
    let start = Instant::now();
    call()?;
    device.synchronize()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The difference of two answers of [`free_bytes`].
fn taken_mib(before: Option<usize>, now: Option<usize>) -> Option<u64> {
    Some(before?.saturating_sub(now?) as u64 >> 20)
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// A line of what the system says of this process's memory: `VmHWM` is the most that was ever resident, `VmRSS` what is.
///
/// # Errors
/// On a system without `/proc`.
pub fn memory_mib(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 = value.context("no such line")?.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024)
}
