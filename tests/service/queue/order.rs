//! The order of the queue: priorities, and a fair share for every project.

use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;
use vstar::db;
use vstar::db::job::NewJob;
use vstar::domain::id::{JobId, ProjectId};
use vstar::domain::job::schedule::{Priority, Schedule};

use super::MINUTE;
use crate::harness::{DIGEST, Service, any_task, lease};

/// Queues a job of a project.
async fn enqueue(db: &PgPool, project: u128, cost: f64) -> JobId {
    let (job_id, task) = (JobId::generate(), any_task());
    let job = NewJob {
        project_id: ProjectId(Uuid::from_u128(project)),
        ..NewJob::new(job_id, &task, 1, cost)
    };
    db::job::enqueue(db, job).await.unwrap();
    job_id
}

async fn project_of(db: &PgPool, job_id: JobId) -> u128 {
    let query = "select project_id from job where job_id = $1";
    let project: Uuid = sqlx::query_scalar(query).bind(job_id.0).fetch_one(db).await.unwrap();
    project.as_u128()
}

/// Claims so many jobs, one after the other, and returns their projects.
async fn claim(db: &PgPool, count: usize) -> Vec<u128> {
    let mut projects = Vec::new();
    for _ in 0..count {
        let leased = lease(db, "gpu", MINUTE).await.unwrap();
        projects.push(project_of(db, leased.job_id).await);
    }
    projects
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn small_projects_do_not_wait_behind_a_large_one(db: PgPool) {
    for _ in 0..400 {
        enqueue(&db, 1, 3.0).await;
    }
    for _ in 0..5 {
        for small in 2..=11 {
            enqueue(&db, small, 3.0).await;
        }
    }

    let order = claim(&db, 450).await;

    let last = order.iter().rposition(|project| *project != 1).unwrap() + 1;
    assert!((50..=57).contains(&last), "the last of 50 small jobs came at place {last}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_project_that_comes_late_is_next_however_long_the_others_have_taken(db: PgPool) {
    for _ in 0..20 {
        enqueue(&db, 1, 1.0).await;
    }
    // It takes much longer than was estimated.
    claim(&db, 5).await;
    sqlx::query("update job set created_at = created_at - interval '1 day'")
        .execute(&db)
        .await
        .unwrap();

    for _ in 0..2 {
        enqueue(&db, 2, 1.0).await;
    }

    let order = claim(&db, 5).await;
    assert_eq!(order.iter().filter(|project| **project == 2).count(), 2, "{order:?}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_a_project_took_of_an_idle_queue_is_not_held_against_it(db: PgPool) {
    for _ in 0..20 {
        enqueue(&db, 1, 100.0).await;
    }
    claim(&db, 20).await;

    enqueue(&db, 1, 1.0).await;
    for _ in 0..20 {
        enqueue(&db, 2, 1.0).await;
    }

    let order = claim(&db, 3).await;
    assert!(order.contains(&1), "{order:?}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn shares_go_by_seconds_and_by_weight(db: PgPool) {
    for project in 1..=3 {
        enqueue(&db, project, 1.0).await;
    }
    sqlx::query("update project_queue set weight = 2 where project_id = $1")
        .bind(Uuid::from_u128(3))
        .execute(&db)
        .await
        .unwrap();
    claim(&db, 3).await;
    // The second has jobs of half the length, the third twice the weight.
    for _ in 0..100 {
        enqueue(&db, 1, 2.0).await;
        enqueue(&db, 2, 1.0).await;
        enqueue(&db, 3, 2.0).await;
    }

    let order = claim(&db, 100).await;

    let of = |project| order.iter().filter(|one| **one == project).count();
    assert!((19..=21).contains(&of(1)), "{} of 100", of(1));
    assert!((39..=41).contains(&of(2)), "{} of 100", of(2));
    assert!((39..=41).contains(&of(3)), "{} of 100", of(3));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn jobs_of_a_higher_priority_run_first(db: PgPool) {
    let mut queued = Vec::new();
    for priority in [Priority::Low, Priority::Normal, Priority::High, Priority::Normal] {
        let (job_id, task) = (JobId::generate(), any_task());
        let schedule = Schedule { priority, ..Schedule::default() };
        let job = NewJob { schedule, ..NewJob::new(job_id, &task, 1, 1.0) };
        db::job::enqueue(&db, job).await.unwrap();
        queued.push(job_id);
    }

    let mut order = Vec::new();
    while let Some(leased) = lease(&db, "gpu", MINUTE).await {
        order.push(leased.job_id);
    }

    assert_eq!(order, [queued[2], queued[1], queued[3], queued[0]]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_place_in_the_queue_counts_what_will_run_before(db: PgPool) {
    let service = Service::with_queue_limit(db, 3).await;
    let mut paths = Vec::new();
    for priority in ["low", "normal", "high"] {
        let body = json!({ "prompt": "a dog", "priority": priority });
        let answer = service.post("/v1/samples", body).await;
        assert_eq!((answer.status, answer.text("priority").as_str()), (202, priority));
        paths.push(answer.header("location").to_owned());
    }

    let mut positions = Vec::new();
    for path in &paths {
        positions.push(service.get(path).await.body["queue"]["position"].clone());
    }
    assert_eq!(positions, [json!(2), json!(1), json!(0)]);
    let full = service.post("/v1/samples", json!({ "prompt": "a dog" })).await;
    assert_eq!((full.status, full.body["code"].as_str()), (503, Some("queue_full")));
    let unknown = service.post("/v1/samples", json!({ "prompt": "a dog", "priority": "urgent" }));
    assert_eq!(unknown.await.problem(), (422, "invalid_value", vec!["/priority"]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn samples_of_an_evaluation_take_places_one_after_the_other(db: PgPool) {
    let service = Service::with_evaluator(db.clone()).await;
    service.trained_concept("rex", DIGEST).await;
    let evaluate = async |priority| {
        let body = json!({
            "subjects": [{ "concepts": [{ "concept": "rex" }] }], "num_inference_steps": 2,
            "prompts": ["photo of a {}", "photo of a {} in snow"], "images_per_prompt": 9, "priority": priority,
        });
        assert_eq!(service.post("/v1/evaluations", body).await.status, 202);
    };

    evaluate("low").await;
    evaluate("high").await;

    let query =
        "select priority, virtual_finish, rows from job where kind = 'sample' order by job_id";
    let places: Vec<(i16, f64, i32)> = sqlx::query_as(query).fetch_all(&db).await.unwrap();
    let ranks: Vec<i16> = places.iter().map(|place| place.0).collect();
    let half = places.len() / 2;
    assert!(half > 2 && ranks[..half].iter().all(|rank| *rank == 4), "{ranks:?}");
    assert!(ranks[half..].iter().all(|rank| *rank == 2), "{ranks:?}");
    for pair in places[..half].windows(2) {
        let (taken, rows) = (pair[1].1 - pair[0].1, f64::from(pair[1].2));
        assert!(taken > 0.0, "{places:?}");
        assert!((taken - (0.5 + 0.04 * rows)).abs() < 1e-6, "two steps of {rows} rows: {taken}");
    }
}
