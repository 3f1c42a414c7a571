//! Trainings that go on in another worker: with the same bytes as if nothing had happened, or visibly from the beginning.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::db;
use vstar::db::job::NewJob;
use vstar::domain::checkpoint::Checkpoint;
use vstar::domain::id::{JobId, TrainingId};
use vstar::reaper::take_back_expired;
use vstar::worker::{DeviceFaults, WorkerConfig};

use crate::end_to_end::Whole;
use crate::harness::{Answer, Service, any_checkpoint, any_task, lease};

const STEPS: usize = 40;
const EVERY: usize = 6;

/// Makes trainings slow enough to be interrupted, and counts their steps, the encoding of images included.
#[derive(Debug, Default)]
pub(crate) struct Slow {
    pub(crate) steps: AtomicUsize,
}

impl Slow {
    fn take_steps(&self) -> usize {
        self.steps.swap(0, Ordering::Relaxed)
    }
}

impl DeviceFaults for Slow {
    fn after_training_step(&self, _: JobId) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn config(slow: &Arc<Slow>) -> WorkerConfig {
    WorkerConfig {
        poll: Duration::from_millis(50),
        checkpoint_every: Some(EVERY),
        faults: Some(slow.clone()),
        ..WorkerConfig::default()
    }
}

pub(crate) fn training(seed: u64) -> Value {
    let recipe = json!({
        "max_train_steps": STEPS, "instance_batch_size": 1, "class_batch_size": 1, "num_class_images": 2,
        "lr_scheduler": "cosine", "lr_warmup_steps": 10,
    });
    json!({ "concepts": ["dog"], "recipe": recipe, "seed": seed })
}

/// Whether a training has taken more than so many optimizer steps.
fn is_beyond(job: &Answer, step: usize) -> bool {
    job.body["phase"] == "optimizing" && job.body["progress"]["step"].as_u64() > Some(step as u64)
}

pub(crate) async fn start(whole: &Whole) -> String {
    let started = whole.service.post("/v1/trainings", training(1)).await;
    assert_eq!(started.status, 202, "{started:?}");
    started.header("location").to_owned()
}

/// What a training has left: the bytes of its delta, and its loss curve.
pub(crate) async fn result(whole: &Whole, path: &str) -> (Vec<u8>, Value) {
    let ended = whole.wait(path, |status| status != "queued" && status != "running").await;
    assert_eq!(ended.text("status"), "succeeded", "{ended:?}");
    let delta = whole.service.get(&format!("/v1/deltas/{}/content", ended.text("delta"))).await;
    (delta.bytes, curve(whole, path).await)
}

async fn curve(whole: &Whole, path: &str) -> Value {
    whole.service.get(&format!("{path}/metrics")).await.body["data"].clone()
}

fn steps_of(curve: &Value) -> Vec<i64> {
    curve.as_array().unwrap().iter().map(|point| point["step"].as_i64().unwrap()).collect()
}

fn job_of(path: &str) -> JobId {
    path.rsplit('/').next().unwrap().parse::<TrainingId>().unwrap().into()
}

async fn checkpoints(whole: &Whole, path: &str) -> Vec<Checkpoint> {
    db::checkpoint::of_job(&whole.service.db, job_of(path)).await.unwrap()
}

/// Waits until a training has a checkpoint of at least this step.
async fn has_checkpoint(whole: &Whole, path: &str, step: u64) -> Answer {
    whole.wait_for(path, |job| job.body["checkpoint_step"].as_u64() >= Some(step)).await
}

/// Ends the worker as a crash would, and gives its jobs back.
async fn crash(whole: &mut Whole) {
    whole.kill_worker().await;
    let db = &whole.service.db;
    let expire =
        "update job set lease_expires_at = now() - interval '1 second' where state = 'running'";
    sqlx::query(expire).execute(db).await.unwrap();
    take_back_expired(db).await.unwrap();
    sqlx::query("update job set run_at = now() where state = 'queued'").execute(db).await.unwrap();
}

/// A service with a concept, and what an undisturbed training of it gives.
async fn with_undisturbed(db: PgPool, slow: &Arc<Slow>) -> (Whole, (Vec<u8>, Value)) {
    let whole = Whole::start_with(db, config(slow)).await;
    whole.concept("dog", Some("<rex>")).await;
    let undisturbed = result(&whole, &start(&whole).await).await;
    (whole, undisturbed)
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_whose_worker_was_killed_gives_the_bytes_of_an_undisturbed_one(db: PgPool) {
    let slow = Arc::default();
    let (mut whole, undisturbed) = with_undisturbed(db, &slow).await;

    let path = start(&whole).await;
    let mut before = 0;
    for (attempt, step) in [(2, 8), (3, 20)] {
        has_checkpoint(&whole, &path, step).await;
        crash(&mut whole).await;
        let queued = whole.service.get(&path).await;
        let kept = queued.body["checkpoint_step"].as_i64().unwrap();
        assert_eq!(steps_of(&curve(&whole, &path).await), (1..=kept).collect::<Vec<_>>());
        whole.start_worker(config(&slow));
        let runs = |job: &Answer| job.body["attempt"] == attempt && !job.body["phase"].is_null();
        whole.wait_for(&path, runs).await;
        let resumed = whole.wait_for(&path, |job| !job.body["resumed_from_step"].is_null()).await;
        assert_eq!(resumed.body["resumed_from_step"], kept, "{resumed:?}");
        assert!(
            kept > before,
            "attempt {attempt} goes on from {kept}, the one before from {before}"
        );
        before = kept;
    }
    let keys = checkpoints(&whole, &path).await;

    assert!(result(&whole, &path).await == undisturbed, "another delta or another curve");
    let ended = whole.service.get(&path).await;
    assert_eq!((&ended.body["attempt"], &ended.body["started_over"]), (&json!(3), &Value::Null));
    assert_eq!(ended.body["checkpoint_step"], Value::Null, "{ended:?}");
    let reasons = ended.body["previous_attempts"].as_array().unwrap().iter();
    let reasons: Vec<&Value> = reasons.map(|attempt| &attempt["reason"]["code"]).collect();
    assert_eq!(reasons, ["worker_lost", "worker_lost"]);
    // Its checkpoints are gone with it.
    for checkpoint in keys {
        assert!(!whole.service.storage.exists(&checkpoint.storage_key).await.unwrap());
    }
    assert!(checkpoints(&whole, &path).await.is_empty());
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_that_is_handed_back_repeats_no_step(db: PgPool) {
    let slow = Arc::new(Slow::default());
    let (mut whole, undisturbed) = with_undisturbed(db, &slow).await;
    let all_steps = slow.take_steps();
    let images = all_steps - STEPS;

    let path = start(&whole).await;
    whole.wait_for(&path, |job| is_beyond(job, 15)).await;
    whole.end_worker().await;

    let queued = whole.service.get(&path).await;
    let stopped_at = queued.body["checkpoint_step"].as_u64().unwrap() as usize;
    assert_eq!(queued.text("status"), "queued");
    assert_eq!(slow.take_steps(), images + stopped_at, "it stopped at {stopped_at}");
    let steps = steps_of(&curve(&whole, &path).await);
    assert_eq!(steps, (1..=stopped_at as i64).collect::<Vec<_>>());
    let attempt = &queued.body["previous_attempts"][0];
    assert_eq!(
        (&attempt["reached_step"], queued.body["attempt"].as_i64()),
        (&json!(stopped_at), Some(1))
    );

    whole.start_worker(config(&slow));
    let resumed = whole.wait_for(&path, |job| is_beyond(job, stopped_at)).await;
    // The speed is that of this attempt: more than 20 steps a second are not possible.
    assert!(resumed.body["progress"]["steps_per_second"].as_f64() < Some(20.0), "{resumed:?}");
    assert!(result(&whole, &path).await == undisturbed, "another delta or another curve");
    assert_eq!(slow.take_steps(), images + STEPS - stopped_at, "steps were repeated");
    let ended = whole.service.get(&path).await;
    assert_eq!(ended.body["resumed_from_step"], stopped_at, "{ended:?}");
    whole.end().await;
}

/// A checkpoint may be broken in any way: the newest whole one counts.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_newest_whole_checkpoint_counts(db: PgPool) {
    let slow = Arc::new(Slow::default());
    let (mut whole, undisturbed) = with_undisturbed(db, &slow).await;

    for damage in ["cut in half", "a byte flipped", "removed", "all removed"] {
        let path = start(&whole).await;
        has_checkpoint(&whole, &path, 10).await;
        whole.end_worker().await;
        let all = checkpoints(&whole, &path).await;
        assert_eq!(all.len(), 2, "{all:?}");
        let storage = &whole.service.storage;
        let newest = &all[0].storage_key;
        let mut bytes = storage.read(newest).await.unwrap().to_vec();
        match damage {
            "cut in half" => bytes.truncate(bytes.len() / 2),
            "a byte flipped" => *bytes.last_mut().unwrap() ^= 1,
            _ => bytes.clear(),
        }
        match damage {
            "removed" => storage.delete(newest).await.unwrap(),
            "all removed" => {
                for checkpoint in &all {
                    storage.delete(&checkpoint.storage_key).await.unwrap();
                }
            }
            _ => storage.replace(newest, bytes).await.unwrap(),
        }

        whole.start_worker(config(&slow));
        assert!(result(&whole, &path).await == undisturbed, "{damage}: another delta or curve");
        let ended = whole.service.get(&path).await;
        let (from, why) = (&ended.body["resumed_from_step"], &ended.body["started_over"]);
        match damage {
            "all removed" => {
                assert!(from.is_null(), "{ended:?}");
                assert!(why.as_str().unwrap().contains("has lost its object"), "{why}");
            }
            _ => assert_eq!((from, why), (&json!(all[1].step), &Value::Null), "{damage}"),
        }
        assert_eq!(ended.body["attempt"], 2, "{damage}");
    }
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_checkpoint_of_another_engine_or_of_other_settings_is_not_gone_on_from(db: PgPool) {
    let slow = Arc::new(Slow::default());
    let (mut whole, undisturbed) = with_undisturbed(db, &slow).await;
    let of_other_seed = whole.service.post("/v1/trainings", training(2)).await;
    let of_other_seed = result(&whole, of_other_seed.header("location")).await;

    for (change, reason, expected) in [
        ("update checkpoint set engine_version = '0.0.9+abc'", "engine 0.0.9+abc", &undisturbed),
        (
            "update job set task = jsonb_set(task, '{seed}', '2') where state = 'queued'",
            "settings",
            &of_other_seed,
        ),
    ] {
        let path = start(&whole).await;
        has_checkpoint(&whole, &path, 10).await;
        whole.end_worker().await;
        let old = checkpoints(&whole, &path).await;
        sqlx::query(change).execute(&whole.service.db).await.unwrap();

        whole.start_worker(config(&slow));
        assert!(result(&whole, &path).await == *expected, "{reason}: another delta or curve");
        let ended = whole.service.get(&path).await;
        let why = ended.text("started_over");
        assert!(why.contains(reason) && ended.body["resumed_from_step"].is_null(), "{ended:?}");
        for checkpoint in old {
            assert!(!whole.service.storage.exists(&checkpoint.storage_key).await.unwrap());
        }
    }
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_canceled_training_leaves_no_checkpoints(db: PgPool) {
    let slow = Arc::new(Slow::default());
    let mut whole = Whole::start_with(db, config(&slow)).await;
    whole.concept("dog", Some("<rex>")).await;
    let path = start(&whole).await;
    has_checkpoint(&whole, &path, 6).await;
    let keys = checkpoints(&whole, &path).await;

    whole.service.post(&format!("{path}/cancel"), json!({})).await;
    whole.wait(&path, |status| status == "canceled").await;
    // Whatever ends a training, workers look for what it has left when they start and from time to time.
    whole.end_worker().await;
    whole.start_worker(config(&slow));
    whole.wait_for(&path, |job| job.body["checkpoint_step"].is_null()).await;

    for checkpoint in keys {
        assert!(!whole.service.storage.exists(&checkpoint.storage_key).await.unwrap());
    }
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_checkpoint_counts_with_the_lease_it_was_written_under_and_the_newest_two_are_kept(
    db: PgPool,
) {
    let service = Service::start(db).await;
    let job_id = JobId::generate();
    db::job::enqueue(&service.db, NewJob::new(job_id, &any_task(), 1, 1.0)).await.unwrap();
    let leased = lease(&service.db, "late", Duration::from_secs(60)).await.unwrap();
    let checkpoint = |step| any_checkpoint(job_id, leased.fence, step);
    let record = async |fence, step| {
        let recorded = db::checkpoint::record(&service.db, job_id, fence, &checkpoint(step)).await;
        recorded
            .unwrap()
            .map(|forgotten| forgotten.iter().map(|key| key.to_string()).collect::<Vec<_>>())
    };
    let steps = async || {
        let all = db::checkpoint::of_job(&service.db, job_id).await.unwrap();
        all.iter().map(|one| one.step).collect::<Vec<_>>()
    };

    assert_eq!(record(leased.fence, 10).await, Some(vec![]));
    assert_eq!(record(leased.fence, 20).await, Some(vec![]));
    assert_eq!(record(leased.fence, 30).await, Some(vec![checkpoint(10).storage_key.to_string()]));
    assert_eq!(record(leased.fence - 1, 40).await, None);
    assert_eq!(steps().await, [30, 20]);

    let resumed =
        db::checkpoint::note_resumption(&service.db, job_id, leased.fence, Some(20), None).await;
    assert_eq!(resumed.unwrap(), Some(vec![checkpoint(30).storage_key]));
    let late =
        db::checkpoint::note_resumption(&service.db, job_id, leased.fence - 1, None, None).await;
    assert_eq!((late.unwrap(), steps().await), (None, vec![20]));
    let taken = "update job set fence = fence + 1 where job_id = $1";
    sqlx::query(taken).bind(job_id.0).execute(&service.db).await.unwrap();
    assert_eq!((record(leased.fence, 50).await, steps().await), (None, vec![20]));
}
