//! Stores and databases that are away while a job begins, runs or ends: the job waits, and nothing that it has computed is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use vstar::postgres::PrivatePostgres;

use crate::checkpoints::{Slow, config, result, start, training};
use crate::end_to_end::Whole;
use crate::harness::Answer;

/// Makes statements hang, and ends the connections on which they do, as an outage would.
struct Outage {
    connection: PgConnection,
}

impl Outage {
    /// Prepares a test's database for [`Self::begin`].
    async fn of(db: &PgPool) -> Self {
        let options = db.connect_options();
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        let prepare = "
            create table outage (of text primary key);
            create function hang() returns trigger language plpgsql as $$
            begin
                while exists (select from outage where of = tg_table_name) loop
                    perform pg_sleep(0.02);
                end loop;
                return new;
            end
            $$;
            create trigger hang before insert on delta for each row execute function hang();
            create trigger hang before insert on job_metric for each row execute function hang();
            create trigger hang before update on job for each row
                when (new.state = 'succeeded') execute function hang();";
        connection.execute(prepare).await.unwrap();
        Self { connection }
    }

    /// From now on, what adds to this table hangs; for the table of jobs, what ends one as succeeded.
    async fn begin(&mut self, table: &str) {
        let begin = sqlx::query("insert into outage values ($1)").bind(table);
        begin.execute(&mut self.connection).await.unwrap();
    }

    /// Breaks off what hangs, until that has happened some times, and ends the outage.
    async fn break_off_and_end(&mut self, table: &str) {
        let (began, mut times) = (Instant::now(), 0);
        while times < 3 {
            assert!(
                began.elapsed() < Duration::from_secs(240),
                "{table}: broken off {times} times"
            );
            let hanging = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid() and state = 'active'
                    and wait_event = 'PgSleep' and query ilike $1";
            let statement = match table {
                "job" => "%state = 'succeeded'%".to_owned(),
                _ => format!("%insert into {table}%"),
            };
            let broken_off: i64 = sqlx::query_scalar(hanging)
                .bind(statement)
                .fetch_one(&mut self.connection)
                .await
                .unwrap();
            times += broken_off;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let end = sqlx::query("delete from outage where of = $1").bind(table);
        end.execute(&mut self.connection).await.unwrap();
    }
}

async fn with_concept(db: PgPool, slow: &Arc<Slow>) -> Whole {
    let whole = Whole::start_with(db, config(slow)).await;
    whole.concept("dog", Some("<rex>")).await;
    whole
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_store_that_is_away_at_the_end_of_a_training_costs_no_step(db: PgPool) {
    let slow = Arc::new(Slow::default());
    let whole = with_concept(db, &slow).await;
    let undisturbed = result(&whole, &start(&whole).await).await;
    let steps = slow.steps.swap(0, Ordering::Relaxed);

    whole.service.store.fail("delta.safetensors");
    let path = start(&whole).await;
    whole.wait_for(&path, |job| job.body["phase"] == "storing").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(whole.service.get(&path).await.body["phase"], "storing");
    whole.service.store.heal();

    assert!(result(&whole, &path).await == undisturbed);
    let ended = whole.service.get(&path).await;
    assert_eq!((&ended.body["attempt"], slow.steps.load(Ordering::Relaxed)), (&json!(1), steps));
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_database_that_breaks_off_at_the_end_of_a_training_costs_no_step(db: PgPool) {
    let slow = Arc::new(Slow::default());
    let whole = with_concept(db, &slow).await;
    let undisturbed = result(&whole, &start(&whole).await).await;
    let steps = slow.steps.swap(0, Ordering::Relaxed);
    let mut outage = Outage::of(&whole.service.db).await;
    outage.begin("delta").await;
    outage.begin("job").await;

    let path = start(&whole).await;
    outage.break_off_and_end("delta").await;
    outage.break_off_and_end("job").await;

    assert!(result(&whole, &path).await == undisturbed);
    let ended = whole.service.get(&path).await;
    assert_eq!((&ended.body["attempt"], slow.steps.load(Ordering::Relaxed)), (&json!(1), steps));
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_database_that_breaks_off_while_a_training_runs_leaves_no_hole_in_its_curve(db: PgPool) {
    let slow = Arc::new(Slow::default());
    let whole = with_concept(db, &slow).await;
    let undisturbed = result(&whole, &start(&whole).await).await;
    let mut outage = Outage::of(&whole.service.db).await;

    let path = start(&whole).await;
    whole.wait_for(&path, |job| job.body["progress"]["step"].as_u64() > Some(2)).await;
    outage.begin("job_metric").await;
    outage.break_off_and_end("job_metric").await;

    assert!(result(&whole, &path).await == undisturbed, "the curve has a hole");
    whole.end().await;
}

/// The store or the database is away while samples and merges end, and while a training begins.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn jobs_of_every_kind_wait_for_a_store_that_is_away(db: PgPool) {
    let slow = Arc::new(Slow::default());
    let mut whole = with_concept(db, &slow).await;
    result(&whole, &start(&whole).await).await;
    // Another worker, which has nothing in memory.
    whole.end_worker().await;
    whole.start_worker(config(&slow));
    let body =
        json!({ "prompt": "photo of a <rex> dog", "num_inference_steps": 2, "n": 2, "seed": 5 });
    let delta = whole.service.get("/v1/concepts/dog").await.text("current_delta");
    let compressions = format!("/v1/deltas/{delta}/compress");
    let samples = "/v1/samples";

    for (what, path, body, unreachable) in [
        ("a sample's delta", samples, body.clone(), "delta.safetensors"),
        ("a sample's images", samples, body, "/1.png"),
        ("a compression's delta", &compressions, json!({ "rank": 2 }), "delta.safetensors"),
        ("a training's photos", "/v1/trainings", training(1), "concepts/"),
    ] {
        whole.service.store.fail(unreachable);
        let started = whole.service.post(path, body).await;
        assert_eq!(started.status, 202, "{what}: {started:?}");
        let job = started.header("location");
        whole.wait_for(job, |job| job.text("status") != "queued").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        whole.service.store.heal();
        let ended = whole.wait(job, |status| status != "queued" && status != "running").await;
        assert_eq!(
            (ended.text("status").as_str(), &ended.body["attempt"]),
            ("succeeded", &json!(1)),
            "{what}"
        );
    }
    whole.end().await;
}

/// The database commits, and breaks off before it has said so.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_owned();
    let server = tokio::task::spawn_blocking(move || PrivatePostgres::start(&data, None, true));
    let server = server.await.unwrap().unwrap();
    let db = PgPool::connect(server.url()).await.unwrap();
    vstar::db::MIGRATOR.run(&db).await.unwrap();
    let slow = Arc::new(Slow::default());
    let whole = with_concept(db, &slow).await;
    let undisturbed = result(&whole, &start(&whole).await).await;
    let steps = slow.steps.swap(0, Ordering::Relaxed);
    let mut outage = PgConnection::connect(server.url()).await.unwrap();

    whole.service.store.fail("delta.safetensors");
    let path = start(&whole).await;
    whole.wait_for(&path, |job| job.body["phase"] == "storing").await;
    let began = Instant::now();
    // From now on, a commit is durable but waits for a copy that does not exist.
    outage.execute("alter system set synchronous_standby_names = 'nobody'").await.unwrap();
    outage.execute("select pg_reload_conf()").await.unwrap();
    whole.service.store.heal();
    let mut lost = 0;
    loop {
        // The delta's transaction and the end of the job lose their answer, and all others get theirs.
        let answer = "select count(*) filter (where loses and pg_terminate_backend(pid)),
                count(*) filter (where not loses and pg_cancel_backend(pid))
            from (
                select pid, query ilike 'commit%' or query ilike '%state = ''succeeded''%' as loses
                from pg_stat_activity where wait_event = 'SyncRep' and pid <> pg_backend_pid()
            ) as waiting";
        let (terminated, _): (i64, i64) =
            sqlx::query_as(answer).fetch_one(&mut outage).await.unwrap();
        lost += terminated;
        let state = "select state from job order by job_id desc limit 1";
        let state: String = sqlx::query_scalar(state).fetch_one(&mut outage).await.unwrap();
        if state == "succeeded" && lost >= 2 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{state}, {lost} answers lost");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    outage.execute("alter system reset synchronous_standby_names").await.unwrap();
    outage.execute("select pg_reload_conf()").await.unwrap();

    assert!(result(&whole, &path).await == undisturbed);
    let ended = whole.service.get(&path).await;
    assert_eq!((&ended.body["attempt"], slow.steps.load(Ordering::Relaxed)), (&json!(1), steps));
    let deltas: Answer = whole.service.get("/v1/deltas").await;
    assert_eq!(deltas.body["data"].as_array().unwrap().len(), 2);
    whole.end().await;
}
