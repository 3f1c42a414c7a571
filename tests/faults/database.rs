//! Postgres, killed under a training, samples and requests.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::api::is_away;
use crate::client::{PATIENCE, has_ended, state, training_of};
use crate::process::until;
use crate::report::{Run, figures};
use crate::sampling::sample_of;
use crate::training::{INTERVAL, STEPS};
use crate::world::{Setup, World};

const OUTAGE: Duration = Duration::from_secs(10);

pub(crate) async fn killed(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(2).checkpoint_every(INTERVAL)).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;
    let sample = sample_of("a dog", 1, 2, 150);
    let path = world.client.start("/v1/samples", &sample).await?;
    let images = world.client.image_digests(&world.client.succeeded(&path).await?).await?;

    run.rounds(1, async |round| {
        let training = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        let before = world.reach(&training, round.step(2 * INTERVAL, STEPS - 5)).await?;
        let mut samples = Vec::new();
        for _ in 0..4 {
            samples.push(world.client.start("/v1/samples", &sample).await?);
        }
        tokio::time::sleep(round.millis(300)).await;
        world.postgres.lock().await.kill();
        let killed = Instant::now();

        let refused = world.client.try_post("/v1/samples", &sample).await?;
        is_away(&refused)?;
        let ready = world.client.try_get("/readyz").await?;
        ensure!(ready.status == 503, "{ready:?}");
        tokio::time::sleep(OUTAGE.saturating_sub(killed.elapsed())).await;
        world.postgres.lock().await.restart().await?;
        let back = Instant::now();

        until("the API is ready again", PATIENCE, async || world.client.is_ready().await).await?;
        let ready_again = back.elapsed();
        let goes_on =
            |job: &Value| has_ended(job) || job["revision"].as_i64() > before["revision"].as_i64();
        world.client.wait(&training, goes_on).await?;
        let recovery = back.elapsed();
        let training = world.check_training(&training, STEPS, &undisturbed).await?;
        let resumed = training["resumed_from_step"].as_u64();
        ensure!(
            training["attempt"] == 1 || resumed > Some(0),
            "it began again: {}",
            state(&training)
        );
        for path in &samples {
            let sample = world.client.succeeded(path).await?;
            world.has_ended_once(path).await?;
            ensure!(
                world.client.image_digests(&sample).await? == images,
                "other images: {}",
                state(&sample)
            );
        }
        let after = world.client.start("/v1/samples", &sample).await?;
        world.client.succeeded(&after).await?;
        Ok(figures([
            ("s to a 503", refused.took.as_secs_f64()),
            ("s until ready", ready_again.as_secs_f64()),
            ("s until the training goes on", recovery.as_secs_f64()),
            ("attempts", training["attempt"].as_f64().unwrap_or(0.0)),
        ]))
    })
    .await
}
