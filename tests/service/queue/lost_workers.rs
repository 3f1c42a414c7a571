//! Jobs end although their workers are gone: by the API alone.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{ConnectOptions, PgPool};
use vstar::db;
use vstar::domain::id::{JobId, MergeId, ProjectId};
use vstar::domain::job::JobKind;

use super::{MINUTE, enqueue};
use crate::harness::{lease, tiny};

/// A process that is killed with the test.
struct Api {
    child: Child,
    address: String,
    _objects: tempfile::TempDir,
}

impl Api {
    /// `vstar serve` without a worker.
    async fn start(db: &PgPool) -> Self {
        let objects = tempfile::tempdir().unwrap();
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_vstar"))
            .args(["serve", "--no-worker", "--listen", &free.to_string()])
            .env("DATABASE_URL", db.connect_options().to_url_lossy().to_string())
            .env("VSTAR_OBJECT_STORE", objects.path())
            .env("VSTAR_BASE_MODEL", tiny())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let api = Self { child, address: format!("http://{free}"), _objects: objects };
        let began = Instant::now();
        while reqwest::get(format!("{}/readyz", api.address)).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "the service does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        api
    }

    async fn merge(&self, job_id: JobId) -> Value {
        let path = format!("{}/v1/merges/{}", self.address, MergeId::from(job_id));
        reqwest::get(path).await.unwrap().json().await.unwrap()
    }

    async fn cancel(&self, job_id: JobId) -> (u16, Value) {
        let path = format!("{}/v1/merges/{}/cancel", self.address, MergeId::from(job_id));
        let answer = reqwest::Client::new().post(path).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Waits until a merge has ended, within two leases and sweeps.
    async fn ended(&self, job_id: JobId) -> Value {
        let began = Instant::now();
        loop {
            let merge = self.merge(job_id).await;
            if !merge["finished_at"].is_null() {
                return merge;
            }
            assert!(began.elapsed() < Duration::from_secs(40), "{merge}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Seconds until a lease ends.
const SOON: Duration = Duration::from_secs(1);

/// Q3: a worker is killed in a job's last attempt.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_of_no_attempts_left_ends_without_a_worker(db: PgPool) {
    let job_id = enqueue(&db).await;
    for _ in 0..2 {
        lease(&db, "gpu-0", Duration::ZERO).await.unwrap();
        vstar::reaper::take_back_expired(&db).await.unwrap();
        sqlx::query("update job set run_at = now()").execute(&db).await.unwrap();
    }
    let api = Api::start(&db).await;
    lease(&db, "gpu-0", SOON).await.unwrap();

    let merge = api.ended(job_id).await;

    assert_eq!(
        (&merge["status"], &merge["error"]["code"]),
        (&json!("failed"), &json!("worker_lost"))
    );
    assert_eq!(merge["previous_attempts"].as_array().unwrap().len(), 3);
    let terminal = "select count(*) from job_event where state = 'failed'";
    assert_eq!(sqlx::query_scalar::<_, i64>(terminal).fetch_one(&db).await.unwrap(), 1);
    let next = enqueue(&db).await;
    assert_eq!(lease(&db, "gpu-1", MINUTE).await.unwrap().job_id, next);
}

/// Q5: a worker is killed when its job has been asked to stop, and the other way round.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_that_is_to_stop_ends_without_a_worker(db: PgPool) {
    let api = Api::start(&db).await;
    let (asked_before, asked_after) = (enqueue(&db).await, enqueue(&db).await);
    lease(&db, "gpu-0", MINUTE).await.unwrap();
    assert_eq!(api.cancel(asked_before).await.0, 202);
    // It dies.
    sqlx::query(
        "update job set lease_expires_at = now() + interval '1 second' where state = 'running'",
    )
    .execute(&db)
    .await
    .unwrap();
    lease(&db, "gpu-1", SOON).await.unwrap();
    let (status, merge) = api.cancel(asked_after).await;
    assert_eq!((status, &merge["status"]), (202, &json!("canceling")));

    for job_id in [asked_before, asked_after] {
        let merge = api.ended(job_id).await;
        assert_eq!((&merge["status"], &merge["attempt"]), (&json!("canceled"), &json!(1)));
        let (status, again) = api.cancel(job_id).await;
        assert_eq!((status, &again["revision"]), (200, &merge["revision"]));
        let last = db::event::after(&db, job_id, 0, 100).await.unwrap().pop().unwrap();
        assert!(last.status.is_terminal());
    }
}

/// S3: a worker that starts again under the same name does not keep the old one's jobs.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_worker_of_the_same_name_is_another_worker(db: PgPool) {
    let job_id = enqueue(&db).await;
    let old = lease(&db, "gpu-0", Duration::ZERO).await.unwrap();
    assert!(lease(&db, "gpu-0", MINUTE).await.is_none());

    vstar::reaper::take_back_expired(&db).await.unwrap();
    let new = lease(&db, "gpu-0", MINUTE).await.unwrap();

    assert_eq!(db::job::renew_lease(&db, job_id, old.fence, MINUTE).await.unwrap(), None);
    assert_eq!((new.attempts, new.fence), (2, old.fence + 1));
    let job =
        db::job::find(&db, ProjectId::DEFAULT, job_id, JobKind::Merge).await.unwrap().unwrap();
    assert_eq!(job.attempts, 2);
}
