//! The running batch from outside: who joins and leaves changes nobody's image, and what goes wrong with one job stays
//! with it.

use std::sync::Arc;
use std::time::Duration;

use candle_core::Tensor;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use vstar::engine::{BaseModel, Delta, DeltaWeights, kv_weights};
use vstar::worker::WorkerConfig;

use crate::end_to_end::Whole;
use crate::faults::Faults;
use crate::harness::{Answer, tiny};
use crate::synthetic::{Concept, Concepts};

fn config(max_batch_size: usize) -> WorkerConfig {
    WorkerConfig {
        poll: Duration::from_millis(100),
        max_batch_size: Some(max_batch_size),
        ..WorkerConfig::default()
    }
}

/// A service with a worker, and so many concepts that nobody trained.
pub(crate) async fn with_concepts(
    db: PgPool,
    max_batch_size: usize,
    count: u64,
) -> (Whole, Vec<Concept>) {
    with_concepts_and(db, config(max_batch_size), count).await
}

/// The same with a worker of another config.
pub(crate) async fn with_concepts_and(
    db: PgPool,
    config: WorkerConfig,
    count: u64,
) -> (Whole, Vec<Concept>) {
    let whole = Whole::start_with(db, config).await;
    let base = BaseModel::load(&tiny(), &candle_core::Device::Cpu).unwrap();
    let concepts =
        Concepts::new(whole.service.db.clone(), whole.service.storage.clone(), &base).unwrap();
    let mut added = Vec::new();
    for number in 0..count {
        added.push(concepts.add(number).await.unwrap());
    }
    (whole, added)
}

/// A small image, so that many steps take little time.
pub(crate) fn request(concept: &Concept, steps: usize, seed: u64) -> Value {
    let prompt = format!("photo of a {} dog", concept.token);
    json!({ "prompt": prompt, "num_inference_steps": steps, "seed": seed, "width": 16, "height": 16 })
}

pub(crate) async fn start(whole: &Whole, body: &Value) -> String {
    let started = whole.service.post("/v1/samples", body.clone()).await;
    assert_eq!(started.status, 202, "{started:?}");
    started.header("location").to_owned()
}

pub(crate) async fn ended(whole: &Whole, path: &str) -> Answer {
    whole.wait(path, |status| !["queued", "running", "canceling"].contains(&status)).await
}

pub(crate) fn digests(sample: &Answer) -> Vec<String> {
    assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
    let images = sample.body["images"].as_array().unwrap();
    images.iter().map(|image| image["sha256"].as_str().unwrap().to_owned()).collect()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn images_generated_among_others_equal_those_generated_alone(db: PgPool) {
    let (whole, concepts) = with_concepts(db, 6, 3).await;
    let mut requests = vec![
        request(&concepts[0], 60, 1),
        request(&concepts[1], 25, 2),
        request(&concepts[2], 40, 3),
        request(&concepts[0], 12, 4),
        request(&concepts[1], 30, 5),
        request(&concepts[2], 9, 6),
    ];
    requests[1]["n"] = json!(4);
    requests[2]["width"] = json!(32);
    requests[3]["guidance_scale"] = json!(1.0);
    requests[4]["scheduler"] = json!("euler_a");
    requests[5]["concepts"] = json!([{ "concept": "c-2", "strength": 0.5 }]);

    let mut alone = Vec::new();
    for request in &requests {
        let path = start(&whole, request).await;
        alone.push(digests(&ended(&whole, &path).await));
    }
    let mut paths = Vec::new();
    for request in &requests {
        paths.push(start(&whole, request).await);
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    let mut together = Vec::new();
    for path in &paths {
        together.push(ended(&whole, path).await);
    }

    for (index, (sample, alone)) in together.iter().zip(&alone).enumerate() {
        assert_eq!(&digests(sample), alone, "request {index} depends on its neighbours");
    }
    let mut all = alone.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 9, "two images are the same");
    let overlaps = together
        .windows(2)
        .filter(|pair| pair[1].text("first_step_at") < pair[0].text("finished_at"));
    assert!(overlaps.count() >= 3, "they were generated one after another: {together:?}");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_canceled_sample_leaves_the_batch_and_the_others_go_on(db: PgPool) {
    let (whole, concepts) = with_concepts(db, 16, 2).await;
    let short = request(&concepts[0], 40, 1);
    let alone = digests(&ended(&whole, &start(&whole, &short).await).await);

    let long = start(&whole, &request(&concepts[1], 900, 2)).await;
    whole.wait(&long, |status| status == "running").await;
    let neighbour = start(&whole, &short).await;
    whole.service.post(&format!("{long}/cancel"), json!({})).await;

    let canceled = ended(&whole, &long).await;
    assert_eq!(canceled.text("status"), "canceled", "{canceled:?}");
    assert_eq!(canceled.body["images"], json!([]));
    assert_eq!(digests(&ended(&whole, &neighbour).await), alone);
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_batch_whose_worker_dies_is_generated_by_the_next_one(db: PgPool) {
    let (mut whole, concepts) = with_concepts(db, 16, 3).await;
    let mut paths = Vec::new();
    for (seed, concept) in concepts.iter().enumerate() {
        paths.push(start(&whole, &request(concept, 400, seed as u64)).await);
    }
    for path in &paths {
        whole.wait(path, |status| status == "running").await;
    }

    whole.kill_worker().await;
    sqlx::query("update job set lease_expires_at = now() where state = 'running'")
        .execute(&whole.service.db)
        .await
        .unwrap();
    whole.start_worker(config(16));

    for (seed, path) in paths.iter().enumerate() {
        let sample = ended(&whole, path).await;
        assert_eq!(sample.body["attempt"], 2, "{sample:?}");
        let again = start(&whole, &request(&concepts[seed], 400, seed as u64)).await;
        assert_eq!(digests(&sample), digests(&ended(&whole, &again).await));
    }
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_damaged_delta_fails_its_own_sample_alone(db: PgPool) {
    let (whole, concepts) = with_concepts(db, 16, 3).await;
    let key = &concepts[1].delta_key;
    let mut bytes = whole.service.storage.read(key).await.unwrap().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    whole.service.storage.replace(key, bytes).await.unwrap();

    let mut paths = Vec::new();
    for concept in &concepts {
        paths.push(start(&whole, &request(concept, 10, 1)).await);
    }
    let (mut samples, broken) = (Vec::new(), 1);
    for path in &paths {
        samples.push(ended(&whole, path).await);
    }

    let failed = samples.remove(broken);
    assert_eq!(failed.text("status"), "failed", "{failed:?}");
    assert_eq!(failed.body["error"]["code"], "object_damaged");
    assert_eq!(failed.body["error"]["retryable"], false);
    assert!(failed.body["error"]["detail"].as_str().unwrap().contains("SHA-256"), "{failed:?}");
    assert_eq!(failed.body["images"], json!([]), "not even an image of the base model");
    for sample in &samples {
        assert_eq!(digests(sample).len(), 1);
    }
    whole.end().await;
}

/// Numbers that a delta's file may hold, but that the network cannot take: they overflow in a denoising step.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_image_that_overflows_fails_alone_and_its_neighbours_go_on(db: PgPool) {
    let (whole, concepts) = with_concepts(db, 16, 3).await;
    let base = BaseModel::load(&tiny(), &candle_core::Device::Cpu).unwrap();
    let mut delta =
        Delta::from_safetensors(&whole.service.storage.read(&concepts[1].delta_key).await.unwrap())
            .unwrap();
    let ones = |rows: usize, columns: usize, value: f32| {
        Tensor::full(value, (rows, columns), &candle_core::Device::Cpu).unwrap()
    };
    let factors = kv_weights(base.unet.cross_attention());
    delta.weights = DeltaWeights::LowRank {
        p: ones(1, base.prompt_encoder.hidden_size(), 3e37),
        e: factors.into_iter().map(|(name, w)| (name, ones(w.dim(0).unwrap(), 1, 1.0))).collect(),
    };
    let bytes = delta.to_safetensors().unwrap();
    let sha256 = data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes));
    let key = &concepts[1].delta_key;
    whole.service.storage.replace(key, bytes).await.unwrap();
    sqlx::query("update delta set sha256 = $1 where storage_key = $2")
        .bind(sha256)
        .bind(key.as_str())
        .execute(&whole.service.db)
        .await
        .unwrap();
    let neighbours = [request(&concepts[0], 200, 1), request(&concepts[2], 200, 2)];
    let mut alone = Vec::new();
    for request in &neighbours {
        alone.push(digests(&ended(&whole, &start(&whole, request).await).await));
    }

    let mut paths = Vec::new();
    for request in &neighbours {
        paths.push(start(&whole, request).await);
    }
    for path in &paths {
        whole.wait(path, |status| status == "running").await;
    }
    let failed = ended(&whole, &start(&whole, &request(&concepts[1], 50, 3)).await).await;

    assert_eq!(failed.text("status"), "failed", "{failed:?}");
    assert_eq!(failed.body["error"]["code"], "sample_diverged", "{failed:?}");
    assert_eq!(failed.body["error"]["retryable"], false);
    assert!(failed.body["error"]["detail"].as_str().unwrap().contains("strength"), "{failed:?}");
    for (path, alone) in paths.iter().zip(&alone) {
        let neighbour = ended(&whole, path).await;
        assert_eq!(&digests(&neighbour), alone);
        assert!(neighbour.text("finished_at") > failed.text("finished_at"), "it was no neighbour");
    }
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_and_samples_both_get_on(db: PgPool) {
    let faults = Arc::new(Faults::default());
    let config = WorkerConfig { faults: Some(faults.clone()), ..config(16) };
    let (whole, concepts) = with_concepts_and(db, config, 1).await;
    whole.concept("dog", Some("<rex>")).await;
    let recipe = json!({ "max_train_steps": 100_000, "num_class_images": 8 });
    let body = json!({ "concepts": ["dog"], "recipe": recipe });
    let started = whole.service.post("/v1/trainings", body).await;
    let path = started.header("location").to_owned();
    whole.wait_for(&path, |training| training.body["progress"]["step"].as_u64() > Some(1)).await;
    // Alone these take seconds; the training gets half of the time, while they run and not after them.
    let mut samples = request(&concepts[0], 900, 1);
    samples["n"] = json!(4);
    let sample = ended(&whole, &start(&whole, &samples).await).await;
    let training = whole.service.get(&path).await;

    assert_eq!(digests(&sample).len(), 4);
    assert_eq!(training.text("status"), "running");
    let taken = faults.training_steps_beside_samples();
    assert!(taken >= 5, "{taken} steps beside the samples: they had the device for themselves");
    whole.service.post(&format!("{path}/cancel"), json!({})).await;
    assert_eq!(ended(&whole, &path).await.text("status"), "canceled");
    whole.end().await;
}
