//! A catalog that was filled by an earlier version goes on.

use std::time::Duration;

use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use vstar::db;
use vstar::domain::id::{DeltaId, JobId, MergeId, ProjectId, SampleId};
use vstar::domain::job::JobKind;
use vstar::worker::WorkerConfig;

use crate::batching::with_concepts;
use crate::harness::Service;

/// Runs the migrations before `first`, then `fill`, then the others.
async fn migrate_around(db: &PgPool, first: &str, fill: impl AsyncFnOnce()) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let at = files.iter().position(|file| file.file_name().unwrap() == first).unwrap();
    let run = async |files: &[std::path::PathBuf]| {
        for file in files {
            let statements = AssertSqlSafe(std::fs::read_to_string(file).unwrap());
            sqlx::raw_sql(statements).execute(db).await.unwrap();
        }
    };
    run(&files[..at]).await;
    fill().await;
    run(&files[at..]).await;
}

#[sqlx::test(migrations = false)]
async fn samples_from_before_manifests_say_how_they_were_generated(db: PgPool) {
    let (training, sample) = (JobId::generate(), JobId::generate());
    let delta = DeltaId::generate();
    let task = json!({
        "kind": "sample", "base_digest": "ab", "prompt": "a <rex> dog", "negative_prompt": "",
        "settings": {
            "n": 2, "seed": 7, "num_inference_steps": 50, "guidance_scale": 4.0, "scheduler": "ddim", "eta": 0.0,
            "width": 64, "height": 64,
        },
        "deltas": [{ "delta_id": delta, "storage_key": "jobs/1/delta", "strength": 0.5 }],
    });
    migrate_around(&db, "0004_samples.sql", async || {
        let jobs = "insert into job (job_id, kind, task) values ($1, 'training', '{}'), ($2, 'sample', $3)";
        sqlx::query(jobs).bind(training.0).bind(sample.0).bind(&task).execute(&db).await.unwrap();
        // Seeds were larger once.
        let mut large = task.clone();
        large["settings"]["seed"] = json!(u64::MAX);
        let job = "insert into job (job_id, kind, task) values ($1, 'sample', $2)";
        sqlx::query(job).bind(JobId::generate().0).bind(large).execute(&db).await.unwrap();
        let delta_row = "insert into delta (delta_id, job_id, base_digest, storage_key, size_bytes, sha256)
            values ($1, $2, 'ab', 'jobs/1/delta', 3, 'cd')";
        sqlx::query(delta_row).bind(delta.0).bind(training.0).execute(&db).await.unwrap();
    })
    .await;
    let service = Service::start(db).await;

    let body = service.get(&format!("/v1/samples/{}", SampleId::from(sample))).await.body;

    assert_eq!(
        (&body["n"], &body["first_index"], &body["seed"]),
        (&json!(2), &json!(0), &json!(7))
    );
    assert_eq!(body["unconditional_strength"], 1.0);
    assert_eq!(body["guidance_interval"], json!([0.0, 1.0]));
    assert_eq!((&body["determinism"], &body["init_image"]), (&json!("strict"), &json!(null)));
    assert_eq!(body["deltas"], json!([{ "delta": delta, "strength": 0.5 }]));
    let digests: serde_json::Value =
        sqlx::query_scalar("select task #> '{deltas,0,sha256}' from job where job_id = $1")
            .bind(sample.0)
            .fetch_one(&service.db)
            .await
            .unwrap();
    assert_eq!(digests, "cd");
    let found = service.get("/v1/samples?prompt=DOG&seed=7").await;
    let found = found.body["data"].as_array().unwrap();
    assert_eq!((found.len(), &found[0]["id"]), (1, &body["id"]));
    let by_prompt = service.get("/v1/samples?prompt=rex").await;
    assert_eq!(by_prompt.body["data"].as_array().unwrap().len(), 2, "{by_prompt:?}");
}

/// Deltas without packs, and nothing encoded: what a version before merge packs has left.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn merges_of_older_deltas_can_be_checked_once_a_worker_has_started(db: PgPool) {
    let (mut whole, _) = with_concepts(db, 16, 2).await;
    let body = json!({ "concepts": [{ "concept": "c-0" }, { "concept": "c-1", "strength": 0.5 }] });
    whole.kill_worker().await;
    let before = whole.service.post("/v1/merges/check", body.clone()).await;
    assert_eq!(before.status, 409, "{before:?}");

    whole.start_worker(WorkerConfig::default());
    let mut check = whole.service.post("/v1/merges/check", body.clone()).await;
    for _ in 0..200 {
        if check.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        check = whole.service.post("/v1/merges/check", body.clone()).await;
    }

    assert_eq!(check.status, 200, "{check:?}");
    assert!(check.body["constraint_error"].as_f64().unwrap() > 0.0, "{check:?}");
    let merge = whole.run("/v1/merges", body).await;
    assert_eq!(merge.text("status"), "succeeded", "{merge:?}");
    // What the worker measured is kept with the job, and is what the check has foretold.
    let merge_id: MergeId = merge.text("id").parse().unwrap();
    let job = db::job::find(&whole.service.db, ProjectId::DEFAULT, merge_id.into(), JobKind::Merge)
        .await
        .unwrap();
    let report = job.unwrap().merge_report.unwrap();
    assert_eq!(
        json!([report.constraint_error, report.drift, report.condition]),
        json!([check.body["constraint_error"], check.body["drift"], check.body["condition"]])
    );
    whole.end().await;
}
