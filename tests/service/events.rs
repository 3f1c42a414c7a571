//! Server-sent events: replay, following, the end.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::db;
use vstar::domain::job::{Phase, Progress};

use crate::harness::{Service, lease};

const MINUTE: Duration = Duration::from_secs(60);

/// Reads a stream to its end: id, name and data of each event.
async fn read(
    service: &Service,
    path: &str,
    last_event_id: Option<&str>,
) -> (u16, Vec<(i64, String, Value)>) {
    let mut request = service.request(reqwest::Method::GET, path);
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let answer =
        tokio::time::timeout(Duration::from_secs(20), service.send(request)).await.unwrap();
    let text = String::from_utf8(answer.bytes).unwrap();
    let blocks = text.split("\n\n").filter(|block| block.contains("data:"));
    let events = blocks.map(|block| {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        (
            field("id:").parse().unwrap(),
            field("event:"),
            serde_json::from_str(&field("data:")).unwrap(),
        )
    });
    (answer.status, events.collect())
}

async fn start_training(service: &Service) -> String {
    service.concept_with_photos("rex", 4).await;
    service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await.text("id")
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_stream_follows_a_training_to_its_end(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let id = start_training(&service).await;

    let work = async {
        let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
        for step in 1..=2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let progress = Progress {
                step,
                total_steps: 2,
                loss: Some(0.1),
                steps_per_second: None,
                eta_seconds: None,
                previews: Vec::new(),
            };
            let phase = Phase::Optimizing;
            db::job::report(&db, leased.job_id, leased.fence, phase, Some(&progress), MINUTE)
                .await
                .unwrap();
            db::job::renew_lease(&db, leased.job_id, leased.fence, MINUTE).await.unwrap();
        }
        db::job::succeed(&db, leased.job_id, leased.fence).await.unwrap();
    };
    let path = format!("/v1/trainings/{id}/events");
    let ((status, events), ()) = tokio::join!(read(&service, &path, None), work);

    assert_eq!(status, 200);
    let told: Vec<_> = events
        .iter()
        .map(|(id, name, data)| (*id, name.as_str(), data["status"].as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (1, "job.updated", Some("queued")),
            (2, "job.updated", Some("running")),
            (3, "job.updated", Some("running")),
            (4, "job.updated", Some("running")),
            (5, "job.terminal", Some("succeeded")),
        ]
    );
    assert_eq!(events[3].2["progress"]["step"], 2);
    assert_eq!(events[3].2["id"], id.as_str());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_stream_is_taken_up_after_the_last_event_seen(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let id = start_training(&service).await;
    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
    db::job::succeed(&db, leased.job_id, leased.fence).await.unwrap();
    let path = format!("/v1/trainings/{id}/events");

    let (_, all) = read(&service, &path, None).await;
    let (_, rest) = read(&service, &path, Some("2")).await;
    let (status, none) = read(&service, &path, Some("3")).await;

    assert_eq!(all.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(rest, all[2..]);
    assert_eq!((status, none.len()), (204, 0));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_stream_ends_when_the_server_does(db: PgPool) {
    let service = Service::start(db).await;
    let id = start_training(&service).await;
    let shutdown = service.shutdown();

    let path = format!("/v1/trainings/{id}/events");
    let end = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        shutdown.cancel();
    };
    let ((_, events), ()) = tokio::join!(read(&service, &path, None), end);

    assert_eq!(events.len(), 1);
}

/// A client that has its `Last-Event-ID` from a catalog that was restored since.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_stream_that_is_asked_for_events_of_the_future_ends_with_its_job(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let id = start_training(&service).await;
    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();

    let path = format!("/v1/trainings/{id}/events");
    let work = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        db::job::succeed(&db, leased.job_id, leased.fence).await.unwrap();
    };
    let ((status, events), ()) = tokio::join!(read(&service, &path, Some("1000000")), work);

    assert_eq!(status, 200);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].0, events[0].1.as_str()), (3, "job.terminal"));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn old_progress_is_forgotten_and_a_stream_goes_on_behind_it(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let id = start_training(&service).await;
    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
    for step in 1..=5 {
        let progress = Progress {
            step,
            total_steps: 9,
            loss: None,
            steps_per_second: None,
            eta_seconds: None,
            previews: Vec::new(),
        };
        let phase = if step == 1 { Phase::Encoding } else { Phase::Optimizing };
        db::job::report(&db, leased.job_id, leased.fence, phase, Some(&progress), MINUTE)
            .await
            .unwrap();
    }
    let age = "update job_event set created_at = now() - interval '2 hours' where seq <= $1";
    let left = async || -> Vec<i64> {
        let seqs = sqlx::query_scalar("select seq from job_event order by seq");
        seqs.fetch_all(&db).await.unwrap()
    };

    // Of 1: queued, 2: running, 3: encoding, 4: optimizing, 5 to 7: only progress.
    assert_eq!(db::event::forget(&db).await.unwrap(), 0, "they are new");
    sqlx::query(age).bind(6_i64).execute(&db).await.unwrap();
    assert_eq!(db::event::forget(&db).await.unwrap(), 2);
    assert_eq!(left().await, [1, 2, 3, 4, 7]);
    sqlx::query(age).bind(7_i64).execute(&db).await.unwrap();
    assert_eq!(db::event::forget(&db).await.unwrap(), 0, "where a job is now stays");
    db::job::succeed(&db, leased.job_id, leased.fence).await.unwrap();
    assert_eq!(db::event::forget(&db).await.unwrap(), 1);

    let path = format!("/v1/trainings/{id}/events");
    let (_, events) = read(&service, &path, Some("5")).await;
    assert_eq!(events.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [8]);
    let (_, events) = read(&service, &path, None).await;
    assert_eq!(events.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [1, 2, 3, 4, 8]);
}
