//! Faults and their consequences: panics, values that are not numbers, stores that fail or stall, lost leases.
//!
//! Each test names the change of the worker that it would not survive.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use safetensors::SafeTensors;
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::domain::id::{JobId, SampleId};
use vstar::worker::{DeviceFaults, WorkerConfig};

use crate::batching::{digests, ended, request, start, with_concepts_and};
use crate::end_to_end::Whole;
use crate::harness::{Answer, tiny};

/// Panics where a test says so, and remembers who was in the batch last.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Jobs whose denoising steps panic.
    panicking: Mutex<HashSet<JobId>>,
    panicking_trainings: AtomicBool,
    /// Images that a denoising step has memory for, plus one; 0 for any number.
    images_in_memory: AtomicUsize,
    /// The most images of one step that had memory.
    most_images: AtomicUsize,
    last_batch: Mutex<Vec<JobId>>,
    /// Calls of the UNet that each job has taken part in.
    steps: Mutex<HashMap<JobId, usize>>,
    training_steps: AtomicUsize,
    /// How many training steps had been taken at the first denoising step, and at the last one so far.
    trained_from_to: Mutex<Option<(usize, usize)>>,
}

impl Faults {
    /// Training steps that were taken between the first denoising step and the last one.
    pub(crate) fn training_steps_beside_samples(&self) -> usize {
        self.trained_from_to.lock().unwrap().map_or(0, |(first, last)| last - first)
    }

    fn steps_of(&self, job: JobId) -> usize {
        self.steps.lock().unwrap().get(&job).copied().unwrap_or(0)
    }
}

impl DeviceFaults for Faults {
    fn before_denoising_step(&self, jobs: &[JobId]) {
        *self.last_batch.lock().unwrap() = jobs.to_vec();
        let trained = self.training_steps.load(Ordering::Relaxed);
        self.trained_from_to.lock().unwrap().get_or_insert((trained, trained)).1 = trained;
        let taking_part: HashSet<JobId> = jobs.iter().copied().collect();
        for job in taking_part {
            *self.steps.lock().unwrap().entry(job).or_default() += 1;
        }
        let panicking = self.panicking.lock().unwrap().clone();
        let culprit = jobs.iter().find(|job| panicking.contains(job));
        assert!(culprit.is_none(), "a denoising step of {culprit:?} panics, as the test wants it");
        if jobs.len() <= self.images_in_memory() {
            self.most_images.fetch_max(jobs.len(), Ordering::Relaxed);
        }
    }

    fn images_in_memory(&self) -> usize {
        self.images_in_memory.load(Ordering::Relaxed).checked_sub(1).unwrap_or(usize::MAX)
    }

    fn after_training_step(&self, job: JobId) {
        self.training_steps.fetch_add(1, Ordering::Relaxed);
        let panics = self.panicking_trainings.load(Ordering::Relaxed);
        assert!(!panics, "a step of {job} panics, as the test wants it");
    }
}

fn config(faults: &Arc<Faults>) -> WorkerConfig {
    WorkerConfig {
        poll: Duration::from_millis(100),
        max_batch_size: Some(16),
        faults: Some(faults.clone()),
        ..WorkerConfig::default()
    }
}

fn job_of(path: &str) -> JobId {
    path.rsplit('/').next().unwrap().parse::<SampleId>().unwrap().into()
}

/// Waits until something has happened on the device's thread.
async fn until(has_happened: impl Fn() -> bool) {
    let began = Instant::now();
    while !has_happened() {
        assert!(began.elapsed() < Duration::from_secs(60), "it has not happened");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a job is in the queue again, and lets it be taken up at once.
async fn queued_again(whole: &Whole, path: &str, attempt: i64) -> Answer {
    let queued = |job: &Answer| job.text("status") != "running" && job.body["attempt"] == attempt;
    let job = whole.wait_for(path, queued).await;
    assert_eq!(job.text("status"), "queued", "{job:?}");
    sqlx::query("update job set run_at = now() where state = 'queued'")
        .execute(&whole.service.db)
        .await
        .unwrap();
    job
}

/// Makes another worker hold the jobs that run.
async fn steal_leases(whole: &Whole) {
    let steal = "update job set fence = fence + 1, worker = 'another', lease_expires_at = now() + interval '1 hour'
        where state = 'running'";
    sqlx::query(steal).execute(&whole.service.db).await.unwrap();
}

fn training(max_train_steps: usize) -> Value {
    let recipe = json!({
        "max_train_steps": max_train_steps, "instance_batch_size": 1, "class_batch_size": 1, "num_class_images": 2,
    });
    json!({ "concepts": ["dog"], "recipe": recipe, "seed": 1 })
}

async fn start_training(whole: &Whole, max_train_steps: usize) -> String {
    let started = whole.service.post("/v1/trainings", training(max_train_steps)).await;
    assert_eq!(started.status, 202, "{started:?}");
    started.header("location").to_owned()
}

/// Not without `catch_unwind` around a job of a batch, nor if a panic were not retryable.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_panic_in_a_denoising_step_ends_the_job_that_causes_it_alone(db: PgPool) {
    let faults = Arc::new(Faults::default());
    let (whole, concepts) = with_concepts_and(db, config(&faults), 3).await;
    let requests: Vec<Value> =
        (0..3).map(|seed| request(&concepts[seed], 600, seed as u64)).collect();
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(digests(&ended(&whole, &start(&whole, request).await).await));
    }
    let mut paths = Vec::new();
    for request in &requests {
        paths.push(start(&whole, request).await);
    }
    let all: Vec<JobId> = paths.iter().map(|path| job_of(path)).collect();
    until(|| all.iter().all(|job| faults.last_batch.lock().unwrap().contains(job))).await;

    faults.panicking.lock().unwrap().insert(all[1]);

    for index in [0, 2] {
        let neighbour = ended(&whole, &paths[index]).await;
        assert_eq!(
            (digests(&neighbour), neighbour.body["attempt"].as_i64()),
            (alone[index].clone(), Some(1))
        );
    }
    faults.panicking.lock().unwrap().clear();
    queued_again(&whole, &paths[1], 1).await;
    let again = ended(&whole, &paths[1]).await;
    assert_eq!((digests(&again), again.body["attempt"].as_i64()), (alone[1].clone(), Some(2)));
    whole.end().await;
}

/// Not if a step that runs out of memory ended its jobs, nor if the next one were as large.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_step_that_runs_out_of_memory_is_taken_by_fewer_images_at_once(db: PgPool) {
    let faults = Arc::new(Faults::default());
    let (whole, concepts) = with_concepts_and(db, config(&faults), 4).await;
    let requests: Vec<Value> =
        (0..4).map(|seed| request(&concepts[seed], 100, seed as u64)).collect();
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(digests(&ended(&whole, &start(&whole, request).await).await));
    }

    faults.images_in_memory.store(1 + 2, Ordering::Relaxed);
    let mut paths = Vec::new();
    for request in &requests {
        paths.push(start(&whole, request).await);
    }
    for (path, alone) in paths.iter().zip(&alone) {
        assert_eq!(digests(&ended(&whole, path).await), *alone);
    }
    let most = faults.most_images.load(Ordering::Relaxed);
    assert!((1..=2).contains(&most), "{most} images took a step together");
    faults.images_in_memory.store(1, Ordering::Relaxed);
    let failed = ended(&whole, &start(&whole, &requests[0]).await).await;
    assert_eq!((failed.text("status"), &failed.body["attempt"]), ("failed".to_owned(), &json!(1)));
    assert_eq!(failed.body["error"]["code"], "out_of_memory", "{failed:?}");
    faults.images_in_memory.store(0, Ordering::Relaxed);
    assert_eq!(digests(&ended(&whole, &start(&whole, &requests[1]).await).await), alone[1]);
    whole.end().await;
}

/// Not without `catch_unwind` on the device's thread.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_that_panics_leaves_the_device_to_others_and_is_tried_again(db: PgPool) {
    let faults = Arc::new(Faults::default());
    let whole = Whole::start_with(db, config(&faults)).await;
    whole.concept("dog", Some("<rex>")).await;

    faults.panicking_trainings.store(true, Ordering::Relaxed);
    let path = start_training(&whole, 2).await;
    for attempt in 1..5 {
        queued_again(&whole, &path, attempt).await;
    }
    let body = json!({ "prompt": "a dog", "num_inference_steps": 1 });
    let sample = whole.run("/v1/samples", body).await;
    assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
    let failed = ended(&whole, &path).await;
    assert_eq!((failed.text("status"), &failed.body["attempt"]), ("failed".to_owned(), &json!(5)));
    assert_eq!(failed.body["error"]["code"], "engine_error", "{failed:?}");
    assert_eq!(failed.body["error"]["retryable"], true);

    faults.panicking_trainings.store(false, Ordering::Relaxed);
    let trained = whole.run("/v1/trainings", training(2)).await;
    assert_eq!(trained.text("status"), "succeeded", "{trained:?}");
    whole.end().await;
}

/// Not if a loss that is no number were not looked at, nor if it were reported as another error.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_whose_loss_is_no_number_says_that_it_diverged(db: PgPool) {
    let model = tempfile::tempdir().unwrap();
    copy(&tiny(), model.path());
    break_vae(&model.path().join("vae/diffusion_pytorch_model.safetensors"));
    let config = WorkerConfig { poll: Duration::from_millis(100), ..WorkerConfig::default() };
    let whole = Whole::start_on(db, model.path().to_owned(), config).await;
    whole.concept("dog", Some("<rex>")).await;

    let failed = whole.run("/v1/trainings", training(5)).await;

    assert_eq!((failed.text("status"), &failed.body["attempt"]), ("failed".to_owned(), &json!(1)));
    assert_eq!(failed.body["error"]["code"], "training_diverged", "{failed:?}");
    assert_eq!(failed.body["error"]["retryable"], false);
    let detail = failed.body["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("learning_rate"), "{detail}");
    whole.end().await;
}

/// Not if a lost lease did not stop the job: the first training would keep the device.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_whose_lease_is_lost_stops_and_changes_nothing(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    let lost = start_training(&whole, 100_000).await;
    whole.wait_for(&lost, |job| job.body["progress"]["step"].as_u64() > Some(1)).await;

    steal_leases(&whole).await;
    let next = start_training(&whole, 100_000).await;
    let begins = whole.wait(&next, |status| status == "running");
    tokio::time::timeout(Duration::from_secs(60), begins).await.expect("the next one never began");

    let lost = whole.service.get(&lost).await;
    assert_eq!(lost.text("status"), "running", "it is another worker's: {lost:?}");
    assert_eq!(lost.body["attempt"], 1);
    whole.service.post(&format!("{next}/cancel"), json!({})).await;
    assert_eq!(ended(&whole, &next).await.text("status"), "canceled");
    whole.end().await;
}

/// Not if a lost lease did not stop the job: its images would be generated to the end.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_sample_whose_lease_is_lost_leaves_the_batch(db: PgPool) {
    let faults = Arc::new(Faults::default());
    let (whole, concepts) = with_concepts_and(db, config(&faults), 1).await;
    let mut body = request(&concepts[0], 900, 1);
    body["n"] = json!(8);
    let lost = start(&whole, &body).await;
    let steps = || faults.steps_of(job_of(&lost));
    until(|| steps() > 0).await;

    steal_leases(&whole).await;
    let mut before = 0;
    while steps() > before {
        before = steps();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    assert!(before < 900, "it was generated to the end: {before} steps");
    let lost = whole.service.get(&lost).await;
    assert_eq!((lost.text("status").as_str(), &lost.body["images"]), ("running", &json!([])));
    whole.end().await;
}

/// Not if nothing were retryable.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_sample_whose_delta_cannot_be_read_is_tried_again(db: PgPool) {
    let (mut whole, concepts) = with_concepts_and(db, config(&Arc::default()), 1).await;
    whole.kill_worker().await; // it may have the delta already

    whole.service.store.fail("delta.safetensors");
    whole.start_worker(WorkerConfig { patience: Duration::ZERO, ..config(&Arc::default()) });
    let path = start(&whole, &request(&concepts[0], 5, 1)).await;
    let is_queued = |job: &Answer| job.text("status") == "queued" && job.body["attempt"] == 1;
    whole.wait_for(&path, is_queued).await;
    whole.service.store.heal();
    queued_again(&whole, &path, 1).await;

    let sample = ended(&whole, &path).await;
    assert_eq!((digests(&sample).len(), sample.body["attempt"].as_i64()), (1, Some(2)));
    whole.end().await;
}

/// Not without a heartbeat beside the work: the lease would run out and the job be taken back.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_store_that_stalls_for_longer_than_a_lease_costs_no_attempt(db: PgPool) {
    let lease = Duration::from_secs(3);
    let config = WorkerConfig { lease, ..config(&Arc::default()) };
    let (mut whole, concepts) = with_concepts_and(db, config.clone(), 1).await;
    whole.kill_worker().await; // it may have the delta already

    whole.service.store.stall("delta.safetensors");
    whole.start_worker(config);
    let path = start(&whole, &request(&concepts[0], 5, 1)).await;
    tokio::time::sleep(3 * lease).await;
    assert_eq!(whole.service.get(&path).await.text("status"), "running");
    whole.service.store.heal();

    let sample = ended(&whole, &path).await;
    assert_eq!((digests(&sample).len(), sample.body["attempt"].as_i64()), (1, Some(1)));
    whole.end().await;
}

/// Not if the delta were recorded only together with what merges need of it.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_delta_is_kept_although_its_merge_pack_cannot_be_made(db: PgPool) {
    let mut whole = Whole::start_with(db, config(&Arc::default())).await;
    whole.concept("dog", Some("<rex>")).await;
    whole.concept("gate", Some("<gate>")).await;
    let train = async |whole: &Whole, concept: &str| {
        let recipe =
            json!({ "max_train_steps": 2, "instance_batch_size": 1, "class_batch_size": 0 });
        let training =
            whole.run("/v1/trainings", json!({ "concepts": [concept], "recipe": recipe })).await;
        assert_eq!(training.text("status"), "succeeded", "{training:?}");
        format!("/v1/deltas/{}", training.text("delta"))
    };
    train(&whole, "gate").await;

    whole.service.store.fail("/pack-");
    let path = train(&whole, "dog").await;

    let delta = whole.service.get(&path).await;
    let reason = delta.text("merge_error");
    let merge = json!({ "concepts": [{ "concept": "dog" }, { "concept": "gate" }] });
    let check = whole.service.post("/v1/merges/check", merge.clone()).await;
    assert_eq!(check.problem().1, "pack_missing");
    assert!(check.body["errors"][0]["detail"].as_str().unwrap().contains(&reason), "{check:?}");

    whole.service.store.heal();
    whole.kill_worker().await;
    whole.start_worker(config(&Arc::default()));
    whole.wait_for(&path, |delta| delta.body["merge_error"].is_null()).await;
    assert_eq!(whole.service.post("/v1/merges/check", merge).await.status, 200);
    whole.end().await;
}

/// Not if a worker that takes the job over trained again.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_worker_that_is_lost_behind_its_delta_leaves_it_to_the_next_one(db: PgPool) {
    let mut whole = Whole::start_with(db, config(&Arc::default())).await;
    whole.concept("dog", Some("<rex>")).await;
    whole.service.store.stall("/pack-");
    let path = start_training(&whole, 2).await;
    let has_delta = |deltas: &Answer| deltas.body["data"].as_array().unwrap().len() == 1;
    let stored = whole.wait_for("/v1/deltas", has_delta).await;
    assert_eq!(whole.service.get(&path).await.text("status"), "running");
    whole.kill_worker().await;
    whole.service.store.heal();
    let expire =
        "update job set lease_expires_at = now() - interval '1 second' where state = 'running'";
    sqlx::query(expire).execute(&whole.service.db).await.unwrap();

    let faults = Arc::new(Faults::default());
    whole.start_worker(config(&faults));
    let training = ended(&whole, &path).await;

    assert_eq!(training.text("status"), "succeeded", "{training:?}");
    assert_eq!(training.body["delta"], stored.body["data"][0]["id"]);
    assert_eq!(faults.training_steps.load(Ordering::Relaxed), 0, "it trained again");
    whole.end().await;
}

/// Not if the device's thread went on by itself, or were not joined.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_worker_that_is_dropped_in_the_middle_of_a_training_leaves_no_thread_behind(db: PgPool) {
    let faults = Arc::new(Faults::default());
    let mut whole = Whole::start_with(db, config(&faults)).await;
    whole.concept("dog", Some("<rex>")).await;
    let path = start_training(&whole, 100_000).await;
    whole.wait_for(&path, |job| job.body["progress"]["step"].as_u64() > Some(1)).await;
    assert!(Arc::strong_count(&faults) > 1);

    whole.kill_worker().await;

    assert_eq!(Arc::strong_count(&faults), 1, "the thread still has its own");
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Makes every latent of a model not a number.
fn break_vae(weights: &Path) {
    let mut file = fs::read(weights).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let bias = tensors.tensor("quant_conv.bias").unwrap();
    let start = bias.data().as_ptr() as usize - file.as_ptr() as usize;
    let end = start + bias.data().len();
    file[start..end].fill(0xff); // not a number, be it in half or in single precision
    fs::write(weights, file).unwrap();
}
