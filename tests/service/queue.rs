//! The queue: leases, fences, cancellation.

mod attempts;
mod deadlines;
mod lost_workers;
mod order;
mod plans;
mod states;
mod wakeups;

use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use vstar::db;
use vstar::db::job::{Capacity, NewJob};
use vstar::domain::code::Code;
use vstar::domain::id::{JobId, ProjectId};
use vstar::domain::job::{Failure, JobKind, JobState, JobStatus, Phase, Task};
use vstar::reaper::take_back_expired;

use crate::harness::{DIGEST, advance, any_task, lease};

const MINUTE: Duration = Duration::from_secs(60);

async fn enqueue(db: &PgPool) -> JobId {
    let job_id = JobId::generate();
    db::job::enqueue(db, NewJob::new(job_id, &any_task(), 1, 1.0)).await.unwrap();
    job_id
}

async fn state(db: &PgPool, job_id: JobId) -> JobState {
    db::job::find(db, ProjectId::DEFAULT, job_id, JobKind::Merge).await.unwrap().unwrap().state
}

fn failure() -> Failure {
    Failure { title: "t".into(), code: Code::WorkerLost, detail: "d".into(), retryable: true }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn jobs_are_leased_once_and_in_order(db: PgPool) {
    let (first, second) = (enqueue(&db).await, enqueue(&db).await);

    let leased = [
        lease(&db, "gpu-0", MINUTE).await.map(|job| job.job_id),
        lease(&db, "gpu-1", MINUTE).await.map(|job| job.job_id),
        lease(&db, "gpu-2", MINUTE).await.map(|job| job.job_id),
    ];

    assert_eq!(leased, [Some(first), Some(second), None]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_task_of_a_newer_program_is_left_to_its_workers(db: PgPool) {
    let (newer, known) = (enqueue(&db).await, enqueue(&db).await);
    let change = "update job set task = jsonb_set(task, '{version}', '99'), task_version = 99 where job_id = $1";
    sqlx::query(change).bind(newer.0).execute(&db).await.unwrap();

    let leased = [
        lease(&db, "gpu-0", MINUTE).await.map(|job| job.job_id),
        lease(&db, "gpu-1", MINUTE).await.map(|job| job.job_id),
    ];

    assert_eq!(leased, [Some(known), None]);
    let query = "select state, attempts from job where job_id = $1";
    let row: (String, i32) = sqlx::query_as(query).bind(newer.0).fetch_one(&db).await.unwrap();
    assert_eq!(row, ("queued".to_owned(), 0));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn many_workers_never_share_a_job(db: PgPool) {
    for _ in 0..20 {
        enqueue(&db).await;
    }

    let workers = (0..4).map(|_| {
        let db = db.clone();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Some(job) = lease(&db, "gpu", MINUTE).await {
                taken.push(job.job_id);
            }
            taken
        })
    });
    let mut taken: Vec<JobId> = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        taken.extend(worker.await.unwrap());
    }

    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 20);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_of_a_dead_worker_is_leased_again_and_the_dead_one_changes_nothing(db: PgPool) {
    let job_id = enqueue(&db).await;
    let dead = lease(&db, "gpu-0", Duration::ZERO).await.unwrap();

    assert_eq!(take_back_expired(&db).await.unwrap(), [(job_id, JobState::Queued)]);
    let next = lease(&db, "gpu-1", MINUTE).await.unwrap();

    assert_eq!((next.job_id, next.attempts, dead.attempts), (job_id, 2, 1));
    assert!(next.fence > dead.fence);
    assert_eq!(db::job::renew_lease(&db, job_id, dead.fence, MINUTE).await.unwrap(), None);
    assert_eq!(
        db::job::report(&db, job_id, dead.fence, Phase::Storing, None, MINUTE).await.unwrap(),
        None
    );
    assert!(!db::job::succeed(&db, job_id, dead.fence).await.unwrap());
    assert!(!db::job::fail(&db, job_id, dead.fence, &failure()).await.unwrap());
    assert!(!db::job::hand_back(&db, job_id, dead.fence, &failure()).await.unwrap());
    assert!(!advance(&db, job_id, dead.fence, 1).await);
    let retried =
        db::job::retry(&db, job_id, dead.fence, &failure(), Duration::ZERO).await.unwrap();
    assert_eq!(retried, None);
    assert_eq!(state(&db, job_id).await, JobState::Running);
    assert!(db::job::succeed(&db, job_id, next.fence).await.unwrap());
    assert!(!db::job::succeed(&db, job_id, next.fence).await.unwrap(), "a job ends once");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_lease_that_is_renewed_is_not_taken_back(db: PgPool) {
    let job_id = enqueue(&db).await;
    let leased = lease(&db, "gpu-0", Duration::ZERO).await.unwrap();

    assert_eq!(db::job::renew_lease(&db, job_id, leased.fence, MINUTE).await.unwrap(), Some(false));

    assert_eq!(take_back_expired(&db).await.unwrap(), []);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_canceled_job_of_a_dead_worker_is_not_run_again(db: PgPool) {
    let job_id = enqueue(&db).await;
    lease(&db, "gpu-0", Duration::ZERO).await.unwrap();

    let status = db::job::cancel(&db, ProjectId::DEFAULT, job_id, JobKind::Merge).await.unwrap();
    take_back_expired(&db).await.unwrap();

    assert_eq!(status, Some(JobStatus::Canceling));
    assert_eq!(state(&db, job_id).await, JobState::Canceled);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn canceling_twice_changes_nothing_the_second_time(db: PgPool) {
    let job_id = enqueue(&db).await;

    for _ in 0..2 {
        let status =
            db::job::cancel(&db, ProjectId::DEFAULT, job_id, JobKind::Merge).await.unwrap();
        assert_eq!(status, Some(JobStatus::Canceled));
    }

    let events = db::event::after(&db, job_id, 0, 10).await.unwrap();
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(
        db::job::cancel(&db, ProjectId::DEFAULT, job_id, JobKind::Sample).await.unwrap(),
        None,
        "of another kind"
    );
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_schema_refuses_a_running_job_without_a_lease(db: PgPool) {
    enqueue(&db).await;

    let error = sqlx::query("update job set state = 'running'").execute(&db).await.unwrap_err();

    assert_eq!(db::broken_constraint(&error), Some("a_job_is_leased_while_it_runs"));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn jobs_are_leased_until_they_fill_the_batch_and_for_one_base_model(db: PgPool) {
    let mut queued = Vec::new();
    for (n, base_digest) in [(1, DIGEST), (1, "another"), (2, DIGEST), (3, DIGEST), (1, DIGEST)] {
        queued.push(enqueue_sample(&db, n, base_digest).await);
    }

    // Guidance doubles each image: 2, 4 and 6 elements.
    assert_eq!(lease_samples(&db, 5, MINUTE).await, [queued[0], queued[2]]);
    assert_eq!(lease_samples(&db, 1, MINUTE).await, [queued[3]]);
    assert_eq!(lease_samples(&db, 100, MINUTE).await, [queued[4]]);
    assert_eq!(lease_samples(&db, 100, MINUTE).await, []);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_is_left_to_workers_that_have_the_memory(db: PgPool) {
    let task = any_task();
    let job = NewJob::new(JobId::generate(), &task, 1, 1.0);
    db::job::enqueue(&db, NewJob { memory_bytes: 8 << 30, ..job }).await.unwrap();
    let leased_with = async |memory_mib| {
        let capacity = Capacity {
            worker: "gpu",
            kinds: &[task.kind()],
            base_digest: DIGEST,
            evaluator_digest: None,
            memory_mib: Some(memory_mib),
            batch_elements: 1,
            lease: MINUTE,
        };
        db::job::lease_next(&db, capacity).await.unwrap().len()
    };

    assert_eq!(leased_with(8191).await, 0);
    assert_eq!(leased_with(8192).await, 1);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_batch_whose_worker_died_is_tried_again_one_by_one(db: PgPool) {
    let mut queued = Vec::new();
    for _ in 0..3 {
        queued.push(enqueue_sample(&db, 1, DIGEST).await);
    }
    assert_eq!(lease_samples(&db, 100, Duration::ZERO).await, queued);

    take_back_expired(&db).await.unwrap();
    queued.push(enqueue_sample(&db, 1, DIGEST).await);

    for job_id in queued {
        assert_eq!(lease_samples(&db, 100, MINUTE).await, [job_id]);
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_large_image_takes_as_much_of_a_batch_as_its_area(db: PgPool) {
    let large = enqueue_sample_of(&db, 1, DIGEST, 128).await;
    let small = enqueue_sample(&db, 1, DIGEST).await;

    // Four times the native area and guidance: 8 elements, which leave no room for the other.
    assert_eq!(lease_samples(&db, 8, MINUTE).await, [large]);
    assert_eq!(lease_samples(&db, 8, MINUTE).await, [small]);
}

async fn enqueue_sample(db: &PgPool, n: usize, base_digest: &str) -> JobId {
    enqueue_sample_of(db, n, base_digest, 64).await
}

async fn enqueue_sample_of(db: &PgPool, n: usize, base_digest: &str, side: usize) -> JobId {
    let settings = json!({
        "n": n, "first_index": 0, "seed": 1, "num_inference_steps": 1, "guidance_scale": 2.0,
        "unconditional_strength": 1.0, "guidance_interval": [0.0, 1.0], "scheduler": "ddim", "eta": 0.0,
        "width": side, "height": side, "determinism": "strict", "preview_every": null,
    });
    let task: Task = serde_json::from_value(json!({
        "kind": "sample", "base_digest": base_digest, "prompt": "", "negative_prompt": "",
        "settings": settings, "deltas": [], "init": null,
    }))
    .unwrap();
    let job_id = JobId::generate();
    db::job::enqueue(db, NewJob::new(job_id, &task, task.batch_elements(64), 1.0)).await.unwrap();
    job_id
}

async fn lease_samples(db: &PgPool, batch_elements: usize, lease: Duration) -> Vec<JobId> {
    let leased = lease_of_kind(db, JobKind::Sample, batch_elements, lease).await;
    leased.into_iter().map(|(job_id, _)| job_id).collect()
}

/// Leases jobs of a kind; returns each with its fence.
async fn lease_of_kind(
    db: &PgPool,
    kind: JobKind,
    batch_elements: usize,
    lease: Duration,
) -> Vec<(JobId, i64)> {
    let capacity = Capacity {
        worker: "gpu",
        kinds: &[kind],
        base_digest: DIGEST,
        evaluator_digest: None,
        memory_mib: None,
        batch_elements,
        lease,
    };
    let leased = db::job::lease_next(db, capacity).await.unwrap();
    leased.iter().map(|job| (job.job_id, job.fence)).collect()
}
