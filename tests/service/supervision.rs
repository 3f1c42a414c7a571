//! Bugs of the worker's own code: what they end, and what goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use vstar::domain::id::JobId;
use vstar::worker::{DeviceFaults, WorkerConfig};

use crate::end_to_end::Whole;

/// Panics so many times at a place.
#[derive(Debug, Default)]
struct Bugs {
    before_jobs: AtomicUsize,
    between_steps: AtomicUsize,
    on_thread: AtomicUsize,
}

fn panic_if_any_is_left(left: &AtomicUsize) {
    let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    assert!(taken.is_err(), "a bug, as the test wants it");
}

impl DeviceFaults for Bugs {
    fn between_steps(&self) {
        panic_if_any_is_left(&self.between_steps);
    }

    fn on_thread(&self) {
        panic_if_any_is_left(&self.on_thread);
    }

    fn before_job(&self, _job: JobId) {
        panic_if_any_is_left(&self.before_jobs);
    }
}

fn config(bugs: &Arc<Bugs>) -> WorkerConfig {
    let poll = Duration::from_millis(100);
    WorkerConfig { poll, faults: Some(bugs.clone()), ..WorkerConfig::default() }
}

async fn start_sample(whole: &Whole) -> String {
    let body = json!({ "prompt": "a dog", "num_inference_steps": 2 });
    whole.service.post("/v1/samples", body).await.header("location").to_owned()
}

/// Makes what is to be tried again later run now.
async fn no_backoff(whole: &Whole) {
    let now = "update job set run_at = now() where state = 'queued'";
    sqlx::query(now).execute(&whole.service.db).await.unwrap();
}

/// Not if the code of a job ran in the task that claims.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_panic_in_the_code_of_a_job_ends_no_claiming(db: PgPool) {
    let bugs = Arc::new(Bugs { before_jobs: 1.into(), ..Bugs::default() });
    let whole = Whole::start_with(db, config(&bugs)).await;
    whole.service.concept_with_photos("dog", 4).await;
    let recipe = json!({ "max_train_steps": 2, "num_class_images": 4 });
    let body = json!({ "concepts": ["dog"], "recipe": recipe });
    let training = whole.service.post("/v1/trainings", body).await.header("location").to_owned();

    let failed = whole
        .wait_for(&training, |job| job.text("status") != "running" && job.body["attempt"] == 1);
    assert_eq!(failed.await.text("status"), "queued", "it is tried again");
    no_backoff(&whole).await;

    let training = whole.wait_for(&training, |job| job.text("status") == "succeeded").await;
    assert_eq!(training.body["attempt"], 2);
    let sample = start_sample(&whole).await;
    whole.wait_for(&sample, |job| job.text("status") == "succeeded").await;
}

/// Not if a panic of the batch's own code ended the thread, or left its jobs waiting.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_panic_of_the_running_batch_ends_its_jobs_and_not_the_thread(db: PgPool) {
    let bugs = Arc::new(Bugs { between_steps: 1.into(), ..Bugs::default() });
    let whole = Whole::start_with(db, config(&bugs)).await;

    let sample = start_sample(&whole).await;
    let failed =
        whole.wait_for(&sample, |job| job.text("status") != "running" && job.body["attempt"] == 1);
    assert_eq!(failed.await.text("status"), "queued");
    no_backoff(&whole).await;

    whole.wait_for(&sample, |job| job.text("status") == "succeeded").await;
}

/// Not if nobody looked at the thread: its jobs would be renewed for ever, and their clients would wait.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_worker_whose_thread_has_died_ends(db: PgPool) {
    let bugs = Arc::new(Bugs { on_thread: 1.into(), ..Bugs::default() });
    let whole = Whole::start_with(db, config(&bugs)).await;

    let ended = tokio::time::timeout(Duration::from_secs(20), whole.worker_ended()).await;

    let panic = ended.expect("the worker does not idle on").unwrap_err();
    assert!(panic.is_panic(), "{panic}");
}
