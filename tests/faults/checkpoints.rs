//! Checkpoints that are not whole: a worker killed while it writes one, and objects that were damaged.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::client::{has_ended, state, step_of, training_of};
use crate::report::{Figures, Run, figures};
use crate::training::STEPS;
use crate::world::{LEASE, Setup, World, attempts};

/// A short interval, so that there is much to hit.
const INTERVAL: u64 = 10;

pub(crate) async fn killed_at_write(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(2).checkpoint_every(INTERVAL)).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;

    run.rounds(2, async |round| {
        let path = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        world.reach(&path, round.step(1, STEPS - 4 * INTERVAL)).await?;
        let Some(worker) = world.holder(&path).await? else { return Ok(Figures::new()) };
        let files = watch_for_a_new_one(&world.objects(), &path).await?;
        // Within the write, between the object and its row, or right after that.
        std::thread::sleep(Duration::from_micros((round.fraction() * 3000.0) as u64));
        world.kill_worker(worker)?;
        let killed = Instant::now();
        world.add_worker().await?;

        let again = |job: &Value| has_ended(job) || job["attempt"].as_u64() > Some(1);
        world.client.wait_for(&path, LEASE * 2 + Duration::from_secs(30), again).await?;
        let recovery = killed.elapsed();
        let training = world.check_training(&path, STEPS, &undisturbed).await?;
        ensure!(training["attempt"] == 2, "{}", state(&training));
        ensure!(training["started_over"].is_null(), "{}", state(&training));
        let (_, mut measured) = attempts(&training)?.pop().context("one attempt failed")?;
        // The one that was being written may not count, the one before it does.
        ensure!(measured["steps repeated"] <= 2.0 * INTERVAL as f64, "{}", state(&training));
        measured.extend(figures([
            ("s until taken up", recovery.as_secs_f64()),
            ("files when killed", files as f64),
        ]));
        Ok(measured)
    })
    .await
}

/// The files of a training's checkpoints, newest last, with those that are being written.
fn checkpoints(objects: &Path, training: &str) -> Vec<PathBuf> {
    let id = training.rsplit('_').next().unwrap_or_default();
    let uuid = crate::client::uuid_of(training).to_string();
    let mut found = Vec::new();
    let mut folders = vec![objects.join("checkpoints")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let text = path.to_string_lossy();
            if path.is_dir() {
                folders.push(path);
            } else if text.contains(id) || text.contains(&uuid) {
                found.push(path);
            }
        }
    }
    found.sort_by_key(|path| step_in_name(path));
    found
}

fn step_in_name(path: &Path) -> u64 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let digits: String = name.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// Waits, without letting go of the core, until a checkpoint begins to be written.
async fn watch_for_a_new_one(objects: &Path, training: &str) -> Result<usize> {
    let before = checkpoints(objects, training);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        let now = checkpoints(objects, training);
        if now.iter().any(|path| !before.contains(path)) {
            return Ok(now.len());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    bail!("no checkpoint of {training} was written within 20 s")
}

/// What happens to the newest checkpoints.
const DAMAGES: [&str; 4] = ["cut in half", "a byte flipped", "removed", "all removed"];

pub(crate) async fn damaged(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(2).checkpoint_every(INTERVAL)).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;

    run.rounds(2, async |round| {
        let damage = DAMAGES[round.number as usize % DAMAGES.len()];
        let path = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        world.reach(&path, STEPS / 2).await?;
        let Some(worker) = world.holder(&path).await? else { return Ok(Figures::new()) };
        world.kill_worker(worker)?;
        let files = checkpoints(&world.objects(), &path);
        let newest = files.last().context("there is a checkpoint")?;
        match damage {
            "cut in half" => {
                let content = std::fs::read(newest)?;
                std::fs::write(newest, &content[..content.len() / 2])?;
            }
            "a byte flipped" => {
                let mut content = std::fs::read(newest)?;
                let middle = content.len() / 2;
                content[middle] ^= 1;
                std::fs::write(newest, content)?;
            }
            "removed" => std::fs::remove_file(newest)?,
            _ => files.iter().try_for_each(std::fs::remove_file)?,
        }
        world.add_worker().await?;

        let goes_on = |job: &Value| {
            has_ended(job) || (job["attempt"].as_u64() > Some(1) && step_of(job).is_some())
        };
        world.client.wait_for(&path, LEASE * 2 + Duration::from_secs(60), goes_on).await?;
        let training = world.check_training(&path, STEPS, &undisturbed).await?;
        ensure!(training["attempt"] == 2, "{damage}: {}", state(&training));
        let resumed = training["resumed_from_step"].as_u64().unwrap_or(0);
        if damage == "all removed" {
            ensure!(
                resumed == 0 && training["started_over"].is_string(),
                "{damage}: {}",
                state(&training)
            );
        } else {
            ensure!(
                resumed > 0 && resumed < step_in_name(newest),
                "{damage}: {}",
                state(&training)
            );
        }
        Ok(Figures::new())
    })
    .await
}
