//! What Postgres reads for a claim and for a new job, in a catalog with many jobs that have ended.

use serde_json::Value;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool, Postgres};
use uuid::Uuid;

use crate::harness::{DIGEST, any_task};

const ENDED: i64 = 100_000;
const QUEUED: i64 = 2_000;

/// Fills the catalog without its triggers.
async fn fill(db: &mut PgConnection) {
    sqlx::query("set session_replication_role = replica").execute(&mut *db).await.unwrap();
    let ended = "insert into job (job_id, kind, task, needs_base, state, attempts, finished_at, virtual_finish)
        select gen_random_uuid(), 'merge', $1, $2, 'succeeded', 1, now(), n from generate_series(1, $3::bigint) as n";
    let queued = "insert into job (job_id, kind, task, needs_base, project_id, virtual_finish)
        select gen_random_uuid(), 'merge', $1, $2, lpad((n % 100)::text, 32, '0')::uuid, n
        from generate_series(1, $3::bigint) as n";
    for (statement, count) in [(ended, ENDED), (queued, QUEUED)] {
        let statement = sqlx::query(statement).bind(Json(any_task())).bind(DIGEST).bind(count);
        statement.execute(&mut *db).await.unwrap();
    }
    for statement in ["set session_replication_role = origin", "vacuum analyze job"] {
        sqlx::query(statement).execute(&mut *db).await.unwrap();
    }
}

/// The statement in a source file that begins with these words.
fn statement(source: &str, begin: &str) -> String {
    let from = source.find(begin).unwrap();
    let to = source[from..].find("\"#,").unwrap();
    format!("explain (analyze, buffers, format json) {}", &source[from..from + to])
}

async fn explain(db: &mut PgConnection, query: Query<'_, Postgres, PgArguments>) -> Value {
    use sqlx::Row;
    let row = query.fetch_one(db).await.unwrap();
    row.get::<Json<Value>, _>(0).0[0].clone()
}

/// All nodes of a plan.
fn nodes(plan: &Value) -> Vec<&Value> {
    let below = plan["Plans"].as_array().into_iter().flatten();
    std::iter::once(plan).chain(below.flat_map(nodes)).collect()
}

/// Refuses plans that read more of the jobs than `most` rows, or sort more.
fn check(explained: &Value, most: f64) {
    let plan = &explained["Plan"];
    for node in nodes(plan) {
        let kind = node["Node Type"].as_str().unwrap();
        let reads_jobs = node["Relation Name"] == "job" && kind != "ModifyTable";
        assert!(!(reads_jobs && kind == "Seq Scan"), "{plan:#}");
        let rows = node["Actual Rows"].as_f64().unwrap() * node["Actual Loops"].as_f64().unwrap();
        let removed = node["Rows Removed by Filter"].as_f64().unwrap_or(0.0);
        if reads_jobs || kind.contains("Sort") {
            assert!(rows + removed <= most, "{kind} of {rows} + {removed} rows: {plan:#}");
        }
    }
    let buffers =
        plan["Shared Hit Blocks"].as_f64().unwrap() + plan["Shared Read Blocks"].as_f64().unwrap();
    assert!(buffers < 1000.0, "{buffers} pages: {plan:#}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_claim_reads_what_it_takes(db: PgPool) {
    let mut db = db.acquire().await.unwrap();
    fill(&mut db).await;
    let claim = statement(include_str!("../../../src/db/job/lease.rs"), "with waiting as (");
    for batch_elements in [1_i64, 8] {
        // The first claims after the queue was filled, and later ones past the places that are free now.
        for _ in 0..20 {
            let query = sqlx::query(sqlx::AssertSqlSafe(claim.clone()))
                .bind("gpu")
                .bind(vec!["merge".to_owned()])
                .bind(60.0_f64)
                .bind(DIGEST)
                .bind(batch_elements)
                .bind(99_i32)
                .bind(None::<String>)
                .bind(i32::MAX);

            let explained = explain(&mut db, query).await;

            check(&explained, 2.0 * batch_elements as f64);
            let plan = explained["Plan"].to_string();
            assert!(plan.contains(r#""Index Name":"job_queue""#), "{plan}");
        }
    }
    let query = "select count(*) from job where state = 'running'";
    let running: i64 = sqlx::query_scalar(query).fetch_one(&mut *db).await.unwrap();
    assert_eq!(running, 20 + 20 * 8);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_new_job_reads_the_head_of_the_queue(db: PgPool) {
    let mut db = db.acquire().await.unwrap();
    fill(&mut db).await;
    let enqueue = statement(include_str!("../../../src/db/job/enqueue.rs"), "with place as (");
    let query = sqlx::query(sqlx::AssertSqlSafe(enqueue))
        .bind("merge")
        .bind(DIGEST)
        .bind(0_i16)
        .bind(Uuid::nil())
        .bind(1.0_f64)
        .bind(3_i32)
        .bind(None::<f64>)
        .bind(None::<f64>)
        .bind(0_i32) // waits for none
        .bind(0_i32) // memory
        .bind(vec![Uuid::now_v7()])
        .bind(vec![Json(any_task())])
        .bind(vec![1_i32])
        .bind(vec![1.0_f64])
        .bind(None::<Value>) // metadata
        .bind(None::<String>) // external id
        .bind(vec![Json(Value::Array(Vec::new()))]) // warnings
        .bind(None::<String>) // request id
        .bind(None::<String>) // traceparent
        .bind(vec![None::<String>]) // prompt
        .bind(vec![None::<i64>]); // seed

    let explained = explain(&mut db, query).await;

    check(&explained, 2.0);
}
