//! How well many concepts are served at once: the real service on `tiny`, a private Postgres and a folder of objects.
//!
//! `cargo bench --bench serving` prints a table in Markdown; `-- --only batching` and the like run one part of it.

mod concepts;
mod service;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use futures::future::join_all;
use serde_json::{Value, json};
use vstar::bench::memory_mib;
use vstar::config::WorkerSettings;
use vstar::engine::random::{Purpose, Random};

use service::{Running, Sample, start};

/// Requests that come at once.
const REQUESTS: usize = 32;
/// Denoising steps of a picture.
const STEPS: usize = 20;

#[derive(Parser)]
struct Args {
    /// Parts to run; all if none is named.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Timed rounds of the comparisons, of which the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Concepts that are there in the end.
    #[arg(long, default_value_t = 1000)]
    concepts: usize,
    /// Pairs of requests by which two servers are compared.
    #[arg(long, default_value_t = 100)]
    pairs: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Many concepts at once, one concept at once, one request at a time.
    Batching,
    /// Latency with few concepts and with many, and the memory that many take.
    Concepts,
    /// From an accepted request to its first step, alone at the device and beside a training.
    FirstStep,
    /// Ten times as many requests as there are places.
    Overload,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    // As in the program itself.
    // SAFETY: no other thread exists yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(Args::parse()))
}

async fn run(args: Args) -> Result<()> {
    let runs = |part| args.only.is_empty() || args.only.contains(&part);
    println!("| what | measured |\n|---|---|");
    if runs(Part::Batching) {
        batching(args.rounds).await?;
    }
    if runs(Part::Concepts) {
        many_concepts(args.concepts, args.pairs).await?;
    }
    if runs(Part::FirstStep) {
        first_step().await?;
    }
    if runs(Part::Overload) {
        overload().await?;
    }
    Ok(())
}

/// What a picture of a request looks like.
#[derive(Clone, Copy)]
struct Shape {
    side: usize,
    guided: bool,
}

impl Shape {
    fn request(self, token: &str, seed: usize) -> Value {
        // Every prompt is new, so that its keys and values are made for it.
        let prompt = format!("photo of a {token} dog number {seed}");
        let scale = if self.guided { 4.0 } else { 1.0 };
        json!({
            "prompt": prompt, "seed": seed, "num_inference_steps": STEPS, "guidance_scale": scale,
            "width": self.side, "height": self.side,
        })
    }
}

/// Seconds from the first request's acceptance to the last one's end.
fn makespan(samples: &[Sample]) -> f64 {
    let first = samples.iter().map(|sample| sample.created_at).fold(f64::INFINITY, f64::min);
    samples.iter().map(|sample| sample.finished_at).fold(0.0, f64::max) - first
}

async fn batching(rounds: usize) -> Result<()> {
    let together = start(WorkerSettings::default(), 1000).await?;
    together.add_concepts(REQUESTS).await?;
    // The same service, whose batch has room for one picture.
    let single =
        start(WorkerSettings { max_batch_size: Some(1), ..WorkerSettings::default() }, 1000);
    let single = single.await?;
    single.add_concepts(REQUESTS).await?;

    let mut seed = 0;
    for (side, guided) in [(16, false), (16, true), (32, true), (64, true)] {
        let shape = Shape { side, guided };
        let rounds = if side == 64 { 1 } else { rounds };
        let mut seconds: [Vec<f64>; 3] = Default::default();
        for round in 0..=rounds {
            for (kind, seconds) in seconds.iter_mut().enumerate() {
                let service = if kind == 2 { &single } else { &together };
                let requests = (0..REQUESTS).map(|index| {
                    let concept = if kind == 0 { index } else { 0 };
                    shape.request(&format!("<c-{concept}>"), seed + index)
                });
                let samples = service.draw_all(requests.collect()).await?;
                seed += REQUESTS;
                // The first round fills caches and pools.
                if round > 0 || rounds == 1 {
                    seconds.push(makespan(&samples));
                }
            }
        }
        let [many, one, alone] = seconds.map(|mut seconds| median(&mut seconds));
        let images = REQUESTS as f64;
        let kind = if guided { "guided" } else { "unguided" };
        println!(
            "| {REQUESTS} requests at once, {side}×{side}, {STEPS} steps, {kind}: images/s of {REQUESTS} concepts, of one \
             concept, one request at a time | {:.1}, {:.1}, {:.1}: {:.2} of one concept, {:.2}× one at a time |",
            images / many,
            images / one,
            images / alone,
            one / many,
            alone / many,
        );
    }
    together.stop().await;
    single.stop().await;
    Ok(())
}

/// One server with few concepts beside one that gets many while it runs, of the same program on the same machine: asked in
/// turn, never both at once, so that whatever slows the machine down meets both.
async fn many_concepts(count: usize, pairs: usize) -> Result<()> {
    let (few, budget_mib) = (10, 16);
    let settings = || WorkerSettings {
        delta_cache_mib: budget_mib,
        conditioning_cache_mib: budget_mib,
        ..WorkerSettings::default()
    };
    let small = start(settings(), 1000).await?;
    let large = start(settings(), 1000).await?;
    for service in [&small, &large] {
        service.add_concepts(few).await?;
    }
    let shape = Shape { side: 32, guided: true };
    let among_few = |seed: usize| shape.request(&format!("<c-{}>", seed % few), seed);
    let each_once = async |concepts: std::ops::Range<usize>| -> Result<()> {
        let tiny_one = |index: usize| {
            let request = Shape { side: 16, guided: false }.request(&format!("<c-{index}>"), index);
            let mut request = request;
            request["num_inference_steps"] = json!(1);
            request
        };
        let requests: Vec<Value> = concepts.map(tiny_one).collect();
        // In parts, so that the clients' memory stays small: it is counted too.
        for part in requests.chunks(REQUESTS) {
            large.draw_all(part.to_vec()).await?;
        }
        Ok(())
    };
    // Until nothing gets quicker any more, and all that a full batch takes is there.
    for _ in 0..10 {
        each_once(0..few).await?;
    }
    paired(&large, among_few, &small, among_few, 30).await?;
    let control = paired(&large, among_few, &small, among_few, pairs).await?;

    let delta_bytes = large.add_concepts(count).await?;
    let overfull = count.min(10 * few); // more than the cache has room for
    each_once(0..overfull).await?;
    let resident_before = memory_mib("VmRSS")?;
    each_once(overfull..count).await?;
    let (used, resident) = (large.delta_cache_bytes(), memory_mib("VmRSS")?);
    paired(&large, among_few, &small, among_few, few).await?; // the few are among the last that were used again
    let same = paired(&large, among_few, &small, among_few, pairs).await?;
    // Each of these was used longer ago than the cache reaches.
    let forgotten = |seed: usize| {
        let concept = few + seed % (count - few).max(1);
        shape.request(&format!("<c-{concept}>"), seed)
    };
    let forgotten = paired(&large, forgotten, &small, among_few, pairs).await?;

    for (what, against) in [
        (format!("{few} concepts and {few}"), control),
        (format!("{count} concepts and {few}"), same),
        (format!("{count} concepts, delta not on the host, and {few}"), forgotten),
    ] {
        println!(
            "| latency of a sample in {pairs} pairs, servers of {what}: p50, their ratio in a pair | {against} |"
        );
    }
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "| deltas on the host after all {count} were used, {:.2} MiB each as files | {:.1} of {budget_mib} MiB allowed, as \
         many for keys and values; the process had {resident_before} MiB after {overfull} and {resident} MiB after all |",
        mib(delta_bytes),
        mib(used),
    );
    small.stop().await;
    large.stop().await;
    Ok(())
}

/// Latencies of two servers that were asked in turn.
struct Paired {
    /// Medians, in seconds.
    first: f64,
    second: f64,
    /// Of the ratios of pairs: the median, and between what it lies with a confidence of 95 %.
    ratio: f64,
    between: [f64; 2],
}

impl fmt::Display for Paired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, second, ratio, between: [low, high] } = self;
        let percent = |ratio: &f64| 100.0 * (ratio - 1.0);
        let (first, second) = (1e3 * first, 1e3 * second);
        let [ratio, low, high] = [ratio, low, high].map(percent);
        write!(f, "{first:.1} and {second:.1} ms: {ratio:+.1} % ({low:+.1} to {high:+.1})")
    }
}

/// Asks one server and the other for a picture each, one after the other and every second time the other way round.
async fn paired(
    first: &Running,
    of_first: impl Fn(usize) -> Value,
    second: &Running,
    of_second: impl Fn(usize) -> Value,
    pairs: usize,
) -> Result<Paired> {
    let (mut firsts, mut seconds, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        let seed = first.next_seed();
        let (one, other);
        if pair % 2 == 0 {
            one = first.draw(of_first(seed)).await?;
            other = second.draw(of_second(seed)).await?;
        } else {
            other = second.draw(of_second(seed)).await?;
            one = first.draw(of_first(seed)).await?;
        }
        let [one, other] = [one, other].map(|sample| sample.finished_at - sample.created_at);
        firsts.push(one);
        seconds.push(other);
        ratios.push(one / other);
    }
    // Half of the ratios lie below the true median, give or take two deviations of a fair coin.
    let margin = 1.0 / (pairs as f64).sqrt();
    Ok(Paired {
        first: median(&mut firsts),
        second: median(&mut seconds),
        ratio: median(&mut ratios),
        between: [0.5 - margin, 0.5 + margin]
            .map(|part| quantile(&mut ratios, part.clamp(0.0, 1.0))),
    })
}

async fn first_step() -> Result<()> {
    let service = start(WorkerSettings::default(), 1000).await?;
    service.add_concepts(REQUESTS).await?;
    let shape = Shape { side: 32, guided: true };
    let requests = |count: usize, from: usize| -> Vec<Value> {
        (from..from + count)
            .map(|seed| shape.request(&format!("<c-{}>", seed % REQUESTS), seed))
            .collect()
    };
    service.draw_all(requests(REQUESTS, 0)).await?;
    let full = service.draw_all(requests(REQUESTS, 100)).await?;
    let capacity = REQUESTS as f64 / makespan(&full);
    let step = |sample: &Sample| (sample.finished_at - sample.first_step_at) / STEPS as f64;

    let sent = service.draw_over_time(requests(200, 200), 0.5 * capacity).await?;
    let mut steps: Vec<f64> = sent.iter().map(|(_, sample)| step(sample)).collect();
    let load = format!("at load 0.5 ({:.1} of {capacity:.1} requests/s, 32×32)", 0.5 * capacity);
    let of_steps = |since: fn(&(f64, Sample)) -> f64| {
        let wait = |both: &(f64, Sample)| (both.1.first_step_at - since(both)) / step(&both.1);
        let mut waits: Vec<f64> = sent.iter().map(wait).collect();
        [0.5, 0.95].map(|part| quantile(&mut waits, part))
    };
    let [p50, p95] = of_steps(|(_, sample)| sample.created_at);
    let [sent_p50, sent_p95] = of_steps(|(sent_at, _)| *sent_at);
    println!(
        "| accepted to first step {load}, p50 and p95 | {p50:.2} and {p95:.2} step times of {:.1} ms; {sent_p50:.2} and \
         {sent_p95:.2} from when the client sends |",
        1e3 * median(&mut steps),
    );

    let training = service.begin_training().await?;
    let training_step = 1.0 / training.steps_per_second;
    let sent = service.draw_over_time(requests(40, 400), 0.25 * capacity).await?;
    let mut waits: Vec<f64> =
        sent.iter().map(|(_, sample)| sample.first_step_at - sample.created_at).collect();
    let (p50, p95) = (median(&mut waits), quantile(&mut waits, 0.95));
    println!(
        "| the same beside a training at half that rate, p50 and p95 | {:.0} and {:.0} ms: {:.2} and {:.2} training steps \
         of {:.0} ms |",
        1e3 * p50,
        1e3 * p95,
        p50 / training_step,
        p95 / training_step,
        1e3 * training_step,
    );
    // Samples wait all the time now: what is left to the training is its share.
    let progress = service.training_step(&training).await?;
    let flood = service.draw_all(requests(4 * REQUESTS, 600)).await?;
    let taken = service.training_step(&training).await? - progress;
    println!(
        "| a training's share of the time while samples wait, of 0.5 stated | {:.2} |",
        taken as f64 * training_step / makespan(&flood)
    );
    service.stop().await;
    Ok(())
}

async fn overload() -> Result<()> {
    let limit = 32;
    let service = start(WorkerSettings::default(), limit).await?;
    service.add_concepts(1).await?;
    let shape = Shape { side: 32, guided: true };
    service.draw(shape.request("<c-0>", 0)).await?;
    let began = std::time::Instant::now();
    let posts = (0..10 * limit).map(|seed| service.post(shape.request("<c-0>", seed), began));
    let answers = join_all(posts).await.into_iter().collect::<Result<Vec<_>>>()?;
    let accepted: Vec<_> = answers.iter().filter(|answer| answer.status != 503).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    anyhow::ensure!(accepted.len() + refused.len() == answers.len(), "an answer of another kind");
    let hint = refused.iter().filter_map(|answer| answer.retry_after).max();
    let hint = hint.context("no hint when to come again")?;
    let ids: Vec<String> = accepted.iter().map(|answer| answer.id.clone()).collect();
    let drawn = service.wait(&ids).await?;
    let mut times: Vec<f64> = refused.iter().map(|answer| answer.seconds).collect();
    println!(
        "| {} requests at once with room for {limit} to wait | {} drawn of {} accepted, {} answered 503 within {:.0} ms (p50) \
         and {:.0} ms (p99), to come again in {hint} s |",
        answers.len(),
        drawn.len(),
        accepted.len(),
        refused.len(),
        1e3 * median(&mut times),
        1e3 * quantile(&mut times, 0.99),
    );
    service.stop().await;
    Ok(())
}

impl Running {
    /// Draws requests that come at random times, so many per second; each with when it was sent, in seconds since 1970.
    async fn draw_over_time(
        &self,
        requests: Vec<Value>,
        per_second: f64,
    ) -> Result<Vec<(f64, Sample)>> {
        let mut random = Random::new(1, Purpose::DataOrder, 0, 0);
        let (mut sent, mut ids) = (Vec::new(), Vec::new());
        for request in requests {
            let gap = -(1.0 - random.uniform()).ln() / per_second;
            tokio::time::sleep(Duration::from_secs_f64(gap)).await;
            sent.push(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64());
            ids.push(self.post(request, std::time::Instant::now()).await?.id);
        }
        Ok(sent.into_iter().zip(self.wait(&ids).await?).collect())
    }

    /// Draws requests that come at once.
    async fn draw_all(&self, requests: Vec<Value>) -> Result<Vec<Sample>> {
        let began = std::time::Instant::now();
        let posts = requests.into_iter().map(|request| self.post(request, began));
        let answers = join_all(posts).await.into_iter().collect::<Result<Vec<_>>>()?;
        self.wait(&answers.into_iter().map(|answer| answer.id).collect::<Vec<_>>()).await
    }

    async fn draw(&self, request: Value) -> Result<Sample> {
        let samples = self.draw_all(vec![request]).await?;
        samples.into_iter().next().context("no sample")
    }
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((part * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}
