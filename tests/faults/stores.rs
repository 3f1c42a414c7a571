//! An S3 server behind a network that fails.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::api::{check_photos, is_away};
use crate::client::{Answer, photos_of, state, training_of};
use crate::proxy::{Fault, Proxy};
use crate::report::{Figures, Round, Run, figures, is_long};
use crate::sampling::sample_of;
use crate::store::S3Server;
use crate::training::{INTERVAL, STEPS};
use crate::world::{Setup, World, log};

/// A deployment whose objects are behind a proxy, and what it makes undisturbed.
struct Behind {
    world: World,
    proxy: Proxy,
    _server: S3Server,
    delta: String,
    images: Vec<String>,
}

/// A sample of those that run while the store fails.
fn sample() -> Value {
    sample_of("a dog", 1, 2, 50)
}

impl Behind {
    async fn start(run: &Run) -> Result<Self> {
        let server = S3Server::start(&log(run.fault.name, "s3")).await?;
        let proxy = Proxy::start(([127, 0, 0, 1], server.port).into()).await;
        let setup = Setup {
            s3: Some(proxy.address.port()),
            ..Setup::workers(1).checkpoint_every(INTERVAL)
        };
        let world = World::start(run, setup).await?;
        world.client.concept("dog", "dog").await?;
        let delta = world.undisturbed("dog", STEPS).await?;
        let path = world.client.start("/v1/samples", &sample()).await?;
        let images = world.client.image_digests(&world.client.succeeded(&path).await?).await?;
        Ok(Self { world, proxy, _server: server, delta, images })
    }

    async fn upload(&self, round: &Round, name: &str) -> Result<(String, Answer)> {
        let handle = format!("{name}-{}", round.number);
        let body = json!({ "handle": handle, "modifier_token": format!("<{handle}>"), "class_noun": "dog" });
        self.world.client.post("/v1/concepts", &body).await?;
        let path = format!("/v1/concepts/{handle}/images");
        let answer = self.world.client.try_upload(&path, &photos_of("dog")).await?;
        Ok((handle, answer))
    }

    /// Checks a training and samples, which all have to succeed with what they make undisturbed.
    async fn check(&self, training: &str, samples: &[String]) -> Result<Value> {
        for path in samples {
            let sample = self.world.client.succeeded(path).await?;
            self.world.has_ended_once(path).await?;
            let images = self.world.client.image_digests(&sample).await?;
            ensure!(images == self.images, "other images: {}", state(&sample));
        }
        self.world.check_training(training, STEPS, &self.delta).await
    }
}

pub(crate) async fn unreachable(run: Run) -> Result<()> {
    let outage = Duration::from_secs(if is_long() { 60 } else { 10 });
    let behind = Behind::start(&run).await?;
    let (world, proxy) = (&behind.world, &behind.proxy);

    run.rounds(1, async |round| {
        let training = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        // The first reads, some checkpoint, or the writing of the delta falls into the outage.
        if round.number % 3 == 1 {
            world.reach(&training, round.step(1, STEPS - 5)).await?;
        }
        proxy.set(if round.number % 2 == 0 { Fault::Silent } else { Fault::Closed });
        let began = Instant::now();
        let mut samples = Vec::new();
        for _ in 0..3 {
            samples.push(world.client.start("/v1/samples", &sample()).await?);
        }
        let (handle, refused) = behind.upload(round, "away").await?;
        is_away(&refused)?;
        tokio::time::sleep(outage.saturating_sub(began.elapsed())).await;
        proxy.set(Fault::None);
        let back = Instant::now();

        check_photos(world, &handle, None).await?;
        let repeated = world
            .client
            .try_upload(&format!("/v1/concepts/{handle}/images"), &photos_of("dog"))
            .await?;
        let usable = back.elapsed();
        check_photos(world, &handle, Some(&repeated.success()?)).await?;
        let training = behind.check(&training, &samples).await?;
        Ok(figures([
            ("s to a 503", refused.took.as_secs_f64()),
            ("s until uploads work", usable.as_secs_f64()),
            ("s until all jobs have ended", back.elapsed().as_secs_f64()),
            ("attempts", training["attempt"].as_f64().unwrap_or(0.0)),
        ]))
    })
    .await
}

pub(crate) async fn slow(run: Run) -> Result<()> {
    let behind = Behind::start(&run).await?;
    let (world, proxy) = (&behind.world, &behind.proxy);

    run.rounds(1, async |round| {
        proxy.set(Fault::Slow(Duration::from_millis(if is_long() { 300 } else { 50 })));
        let training = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        let samples = [world.client.start("/v1/samples", &sample()).await?];
        let (handle, uploaded) = behind.upload(round, "slow").await?;
        let took = uploaded.took;
        check_photos(world, &handle, Some(&uploaded.success()?)).await?;
        let training = behind.check(&training, &samples).await?;
        proxy.set(Fault::None);
        ensure!(training["attempt"] == 1, "{}", state(&training));
        Ok(figures([("s for an upload of 4 photos", took.as_secs_f64())]))
    })
    .await
}

pub(crate) async fn cut(run: Run) -> Result<()> {
    let behind = Behind::start(&run).await?;
    let (world, proxy) = (&behind.world, &behind.proxy);

    run.rounds(1, async |round| {
        let training = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        if round.number % 2 == 1 {
            world.reach(&training, round.step(1, STEPS - 5)).await?;
        }
        proxy.set(Fault::CutEach(round.step(500, 40_000) as usize));
        let began = Instant::now();
        let mut samples = Vec::new();
        for _ in 0..3 {
            samples.push(world.client.start("/v1/samples", &sample()).await?);
        }
        let (mut uploads, mut refused) = (Vec::new(), 0.0);
        while began.elapsed() < Duration::from_secs(8) {
            let name = format!("cut-{}", uploads.len());
            let (handle, answer) = behind.upload(round, &name).await?;
            if !answer.is_success() {
                is_away(&answer)?;
                refused += 1.0;
            }
            uploads.push((handle, answer));
        }
        proxy.set(Fault::None);
        for (handle, answer) in &uploads {
            check_photos(world, handle, answer.is_success().then_some(&answer.body)).await?;
        }
        let training = behind.check(&training, &samples).await?;
        let attempts = training["attempt"].as_f64().unwrap_or(0.0);
        Ok(Figures::from([
            ("uploads refused".to_owned(), refused),
            ("attempts".to_owned(), attempts),
        ]))
    })
    .await
}
