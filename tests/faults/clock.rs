//! Workers whose wall clock is wrong.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::client::{has_ended, state, training_of};
use crate::program::repository;
use crate::report::{Run, figures};
use crate::sampling::sample_of;
use crate::training::{INTERVAL, STEPS};
use crate::world::{LEASE, Setup, World};

pub(crate) async fn an_hour_off(run: Run) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let library = folder.path().join("clock.so");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(repository("tests/faults/clock.c"));
    if !compiler.status().is_ok_and(|status| status.success()) {
        return run.skip("there is no C compiler");
    }
    let world = World::start(&run, Setup::workers(1).checkpoint_every(INTERVAL)).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;

    run.rounds(1, async |_| {
        for worker in world.workers() {
            world.kill_worker(worker)?;
        }
        let mut workers = Vec::new();
        for seconds in ["3600", "-3600"] {
            let mut command = world.command("work").await;
            command.env("LD_PRELOAD", &library).env("VSTAR_FAULT_CLOCK", seconds);
            workers.push(world.add_worker_by(command)?);
        }
        // Both get work, and one of them is killed: the other, whose clock says otherwise, takes its job up after the lease.
        let mut trainings = Vec::new();
        for _ in 0..2 {
            trainings.push(world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?);
        }
        for path in &trainings {
            world.client.wait(path, |job| job["status"] == "running").await?;
        }
        let sample = world.client.start("/v1/samples", &sample_of("a dog", 1, 2, 20)).await?;
        let sample = world.client.succeeded(&sample).await?;
        world.kill_worker(workers[0])?;
        let limit = LEASE * 2 + Duration::from_secs(60);
        let mut attempts = 0;
        for path in &trainings {
            world.client.wait_for(path, limit, has_ended).await?;
            let training = world.check_training(path, STEPS, &undisturbed).await?;
            attempts += training["attempt"].as_u64().unwrap_or(0);
            tells_the_time(&training)?;
        }
        tells_the_time(&sample)?;
        ensure!(attempts <= 3, "leases ended early: {attempts} attempts");
        Ok(figures([("attempts of two trainings, one of them killed", attempts as f64)]))
    })
    .await
}

/// All times of a job are the database's: in order, and of now.
fn tells_the_time(job: &Value) -> Result<()> {
    let time = |field: &str| -> Result<Option<chrono::DateTime<chrono::Utc>>> {
        job[field].as_str().map(|text| text.parse().context(format!("{field}: {text}"))).transpose()
    };
    let now = chrono::Utc::now();
    let mut before = None;
    for field in ["created_at", "started_at", "first_step_at", "finished_at"] {
        let Some(at) = time(field)? else { continue };
        let age = now - at;
        ensure!(age.num_seconds().abs() < 900, "{field} is {age} old: {}", state(job));
        ensure!(
            before.is_none_or(|before| before <= at),
            "{field} is out of order: {}",
            state(job)
        );
        before = Some(at);
    }
    Ok(())
}
