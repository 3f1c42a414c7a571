//! How well many concepts are served at once: the real service on `tiny`, a private Postgres and a folder of objects.
//!
//! `cargo bench --bench serving` prints a table in Markdown; `-- --only batching` and the like run one part of it.

mod concepts;
mod service;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use futures::future::join_all;
use serde_json::{Value, json};
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
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Many concepts at once, one concept at once, one request at a time.
    Batching,
    /// Latency before and after the last of many concepts is added.
    Concepts,
    /// From an accepted request to its first step, alone at the device and beside a training.
    FirstStep,
    /// Ten times as many requests as there are places.
    Overload,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let runs = |part| args.only.is_empty() || args.only.contains(&part);
    println!("| what | measured |\n|---|---|");
    if runs(Part::Batching) {
        batching(args.rounds).await?;
    }
    if runs(Part::Concepts) {
        many_concepts(args.concepts).await?;
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
    let single = start(WorkerSettings { row_budget: Some(1), ..WorkerSettings::default() }, 1000);
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

async fn many_concepts(count: usize) -> Result<()> {
    let budget_mib = 16;
    let settings = WorkerSettings { delta_cache_mib: budget_mib, ..WorkerSettings::default() };
    let service = start(settings, 1000).await?;
    let few = 10;
    let shape = Shape { side: 32, guided: true };
    let mut seed = 0;
    let mut latency = async |requests: usize| -> Result<f64> {
        let mut seconds = Vec::new();
        for _ in 0..requests {
            let request = shape.request(&format!("<c-{}>", seed % few), seed);
            seed += 1;
            let sample = service.draw(request).await?;
            seconds.push(sample.finished_at - sample.created_at);
        }
        Ok(median(&mut seconds))
    };
    let delta_bytes = service.add_concepts(few).await?;
    latency(60).await?; // until nothing gets quicker any more
    let before = latency(60).await?;

    service.add_concepts(count).await?;
    let tiny_one = |index: usize| {
        let request = Shape { side: 16, guided: false }.request(&format!("<c-{index}>"), index);
        let mut request = request;
        request["num_inference_steps"] = json!(1);
        request
    };
    service.draw_all((0..count).map(tiny_one).collect()).await?;
    let used = service.delta_cache_bytes();
    let after = latency(60).await?;

    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "| latency of a sample, p50, with {few} and with {count} concepts | {:.0} ms, {:.0} ms: {:+.1} % |",
        1e3 * before,
        1e3 * after,
        100.0 * (after / before - 1.0)
    );
    println!(
        "| deltas on the host after all {count} were used, {:.2} MiB each as files | {:.1} MiB of the {budget_mib} MiB \
         allowed |",
        mib(delta_bytes),
        mib(used),
    );
    service.stop().await;
    Ok(())
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

    let samples = service.draw_over_time(requests(80, 200), 0.5 * capacity).await?;
    let mut waits: Vec<f64> = samples
        .iter()
        .map(|sample| (sample.first_step_at - sample.created_at) / step(sample))
        .collect();
    let mut steps: Vec<f64> = samples.iter().map(step).collect();
    println!(
        "| accepted to first step at load 0.5 ({:.1} of {capacity:.1} requests/s, 32×32), p50 and p90 | {:.2} and {:.2} \
         step times of {:.1} ms |",
        0.5 * capacity,
        median(&mut waits),
        quantile(&mut waits, 0.9),
        1e3 * median(&mut steps),
    );

    let training = service.begin_training().await?;
    let training_step = 1.0 / training.steps_per_second;
    let samples = service.draw_over_time(requests(40, 400), 0.25 * capacity).await?;
    let mut waits: Vec<f64> =
        samples.iter().map(|sample| sample.first_step_at - sample.created_at).collect();
    let (p50, p90) = (median(&mut waits), quantile(&mut waits, 0.9));
    println!(
        "| the same beside a training at half that rate, p50 and p90 | {:.0} and {:.0} ms: {:.2} and {:.2} training steps \
         of {:.0} ms |",
        1e3 * p50,
        1e3 * p90,
        p50 / training_step,
        p90 / training_step,
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
    /// Draws requests that come at random times, so many per second.
    async fn draw_over_time(&self, requests: Vec<Value>, per_second: f64) -> Result<Vec<Sample>> {
        let mut random = Random::new(1, Purpose::DataOrder, 0, 0);
        let mut ids = Vec::new();
        for request in requests {
            let gap = -(1.0 - random.uniform()).ln() / per_second;
            tokio::time::sleep(Duration::from_secs_f64(gap)).await;
            ids.push(self.post(request, std::time::Instant::now()).await?.id);
        }
        self.wait(&ids).await
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
