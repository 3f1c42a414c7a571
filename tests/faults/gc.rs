//! The collection of stray objects, beside everything that writes some.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::api::check_photos;
use crate::client::{photos_of, training_of};
use crate::report::{Run, figures, is_long};
use crate::sampling::sample_of;
use crate::training::INTERVAL;
use crate::world::{Setup, World};

const STEPS: u64 = 60;
/// Longer than any upload of the test takes from its first object to its rows.
const GRACE: &str = "5s";

pub(crate) async fn beside_writers(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(1).checkpoint_every(INTERVAL)).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;

    run.rounds(1, async |round| {
        // A stray, as a training leaves it whose worker died before the row was there.
        let of_no_job = format!("jobs/job_{}/1/delta.safetensors", "0".repeat(26));
        let stray = world.objects().join(of_no_job);
        std::fs::create_dir_all(stray.parent().context("a folder")?)?;
        std::fs::write(&stray, b"nobody's")?;

        let lasts = Duration::from_secs(if is_long() { 120 } else { 15 });
        let began = Instant::now();
        let (uploads, trainings, samples) =
            (RefCell::new(Vec::new()), RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let upload = async {
            while began.elapsed() < lasts {
                let handle = format!("c-{}-{}", round.number, uploads.borrow().len());
                let body = json!({
                    "handle": handle, "modifier_token": format!("<{handle}>"), "class_noun": "dog",
                });
                world.client.post("/v1/concepts", &body).await?;
                let path = format!("/v1/concepts/{handle}/images");
                let answer = world.client.try_upload(&path, &photos_of("dog")).await?.success()?;
                uploads.borrow_mut().push((handle, answer));
                tokio::time::sleep(round.millis(300)).await;
            }
            anyhow::Ok(())
        };
        let train = async {
            while began.elapsed() < lasts {
                let path = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
                trainings.borrow_mut().push(path.clone());
                let path = world.client.start("/v1/samples", &sample_of("a dog", 1, 2, 20)).await?;
                samples.borrow_mut().push(path);
                let last = trainings.borrow().last().cloned().unwrap_or_default();
                world.client.succeeded(&last).await?;
            }
            anyhow::Ok(())
        };
        let collections = Cell::new(0);
        let collect = async {
            while began.elapsed() < lasts {
                collect_once(&world).await?;
                collections.set(collections.get() + 1);
            }
            anyhow::Ok(())
        };
        let (uploaded, trained, collected) = tokio::join!(upload, train, collect);
        uploaded.and(trained).and(collected)?;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let report = collect_once(&world).await?;

        ensure!(!stray.exists(), "the stray is still there: {report}");
        let counts = (uploads.borrow().len(), trainings.borrow().len());
        for (handle, answer) in uploads.take() {
            check_photos(&world, &handle, Some(&answer)).await?;
        }
        for path in trainings.take() {
            world.check_training(&path, STEPS, &undisturbed).await?;
        }
        for path in samples.take() {
            let sample = world.client.succeeded(&path).await?;
            world.client.image_digests(&sample).await?;
        }
        ensure!(
            report["lost"].as_array().is_none_or(Vec::is_empty),
            "rows without objects: {report}"
        );
        Ok(figures([
            ("collections", f64::from(collections.get())),
            ("uploads", counts.0 as f64),
            ("trainings", counts.1 as f64),
        ]))
    })
    .await
}

/// Runs `vstar gc` to its end; returns its report.
async fn collect_once(world: &World) -> Result<Value> {
    let command = world.command("gc").await;
    let mut command = tokio::process::Command::from(command);
    command.args(["--grace", GRACE, "--json"]).env("RUST_LOG", "warn").kill_on_drop(true);
    let output = command.output().await?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "vstar gc ended with {}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).context("vstar gc --json does not print JSON")
}
