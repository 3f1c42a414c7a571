//! Workers that are killed or asked to end in the middle of a training.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::client::{has_ended, state, step_of, training_of};
use crate::report::{Figures, Run, figures};
use crate::world::{LEASE, Setup, World, attempts};

pub(crate) const STEPS: u64 = 120;
/// How often the workers of these tests store a checkpoint.
pub(crate) const INTERVAL: u64 = 15;
/// How long a worker may take to end after SIGTERM in a training, which stops at its next step.
const EXIT: Duration = Duration::from_secs(10);

pub(crate) async fn killed(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(2).checkpoint_every(INTERVAL)).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;

    run.rounds(2, async |round| {
        let path = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        world.reach(&path, round.step(1, STEPS - 10)).await?;
        tokio::time::sleep(round.millis(700)).await;
        let Some(worker) = world.holder(&path).await? else {
            // It was faster than the test, which counts as a round without a figure.
            world.check_training(&path, STEPS, &undisturbed).await?;
            return Ok(Figures::new());
        };
        world.kill_worker(worker)?;
        let killed = Instant::now();
        world.add_worker().await?;

        let limit = LEASE * 2 + Duration::from_secs(30);
        let again = |job: &serde_json::Value| has_ended(job) || job["attempt"].as_u64() > Some(1);
        let taken_up = world.client.wait_for(&path, limit, again).await?;
        let recovery = killed.elapsed();
        shows_no_undone_steps(&world, &path, &taken_up).await?;

        let training = world.check_training(&path, STEPS, &undisturbed).await?;
        ensure!(training["attempt"] == 2, "{}", state(&training));
        let (reason, mut measured) = attempts(&training)?.pop().context("one attempt failed")?;
        ensure!(reason == "worker_lost", "{}", state(&training));
        let repeated = measured["steps repeated"];
        ensure!(
            repeated <= INTERVAL as f64,
            "{repeated} steps were repeated: {}",
            state(&training)
        );
        measured.extend(figures([("s until taken up", recovery.as_secs_f64())]));
        Ok(measured)
    })
    .await
}

/// While the next attempt has not taken a step yet, the curve ends where it goes on.
async fn shows_no_undone_steps(
    world: &World,
    path: &str,
    training: &serde_json::Value,
) -> Result<()> {
    let before_the_first_step = |job: &serde_json::Value| {
        job["status"] == "running" && (job["phase"] == "fetching" || job["phase"] == "encoding")
    };
    if !before_the_first_step(training) {
        return Ok(());
    }
    let curve = world.curve(path).await?;
    let after = world.client.get(path).await?;
    let last = curve.last().copied().unwrap_or(0);
    // Before it has read a checkpoint, it is the newest one that it will try.
    let resumed = after["resumed_from_step"].as_u64().or(after["checkpoint_step"].as_u64());
    let resumed = resumed.unwrap_or(0);
    ensure!(
        !before_the_first_step(&after) || last <= resumed,
        "the curve goes on to step {last}, the training goes on from {resumed}: {}",
        state(&after)
    );
    Ok(())
}

pub(crate) async fn terminated(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(2).checkpoint_every(INTERVAL)).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;
    for worker in world.workers() {
        world.kill_worker(worker)?;
    }

    // One worker at a time, so that nobody else takes the training up before it has ended.
    run.rounds(1, async |round| {
        let first = world.add_worker().await?;
        let path = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        world.reach(&path, round.step(1, STEPS - 40)).await?;
        tokio::time::sleep(round.millis(500)).await;
        let exit = world.take_worker(first)?.terminate(EXIT).await?;
        let handed_back = world.client.get(&path).await?;
        if has_ended(&handed_back) {
            world.check_training(&path, STEPS, &undisturbed).await?;
            return Ok(Figures::new());
        }
        ensure!(handed_back["status"] == "queued", "{}", state(&handed_back));
        let curve = world.curve(&path).await?;

        let restarted = Instant::now();
        let second = world.add_worker().await?;
        let goes_on = |job: &serde_json::Value| has_ended(job) || step_of(job).is_some();
        world.client.wait(&path, goes_on).await?;
        let recovery = restarted.elapsed();
        let training = world.check_training(&path, STEPS, &undisturbed).await?;
        world.kill_worker(second)?;

        ensure!(training["attempt"] == 2, "{}", state(&training));
        let (_, mut measured) = attempts(&training)?.pop().context("one attempt was stopped")?;
        let resumed = training["resumed_from_step"].as_u64().unwrap_or(0);
        ensure!(measured["steps repeated"] == 0.0, "{}", state(&training));
        let last = curve.last().copied().unwrap_or(0);
        ensure!(last == resumed, "the curve ended at {last}, it went on from {resumed}");
        measured.extend(figures([
            ("s to exit", exit.as_secs_f64()),
            ("s from restart to first step", recovery.as_secs_f64()),
        ]));
        Ok(measured)
    })
    .await
}
