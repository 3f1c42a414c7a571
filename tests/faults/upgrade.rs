//! A database and objects of an earlier version, in the middle of its work.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection};
use vstar::engine::ops::InstructionSet;

use crate::client::{Client, has_ended, state, uuid_of};
use crate::postgres::Postgres;
use crate::process::{Process, free_port, until};
use crate::program::repository;
use crate::report::{Run, figures};
use crate::world::{LEASE, Setup, World, forget_logs, log};

pub(crate) async fn in_place(run: Run) -> Result<()> {
    let folder = repository("tests/fixtures/v0.1.0");
    let recorded: Value = serde_json::from_slice(&std::fs::read(folder.join("recorded.json"))?)?;
    let path = |name: &str| -> Result<String> {
        let request = &recorded["requests"][name];
        let id = request["id"].as_str().context("an id")?;
        Ok(format!("{}/{id}", request["path"].as_str().context("a path")?))
    };
    let (training, sample) = (path("queued training")?, path("sample of a worker that died")?);

    run.rounds(1, async |_| {
        forget_logs(run.fault.name);
        let objects = tempfile::tempdir()?;
        let unpacked =
            Command::new("tar").arg("-xzf").arg(folder.join("objects.tar.gz")).arg("-C").arg(objects.path()).status()?;
        ensure!(unpacked.success(), "tar: {unpacked}");
        let postgres = Postgres::start(&log(run.fault.name, "postgres")).await?;
        let mut db = sqlx::PgConnection::connect(&postgres.url()).await?;
        let dump = std::fs::read_to_string(folder.join("database.sql"))?;
        sqlx::raw_sql(AssertSqlSafe(dump)).execute(&mut db).await?;
        drop(db);
        // The earlier version's worker was in the middle of the training, and its curve was at step 3.
        let mut db = sqlx::PgConnection::connect(&postgres.url()).await?;
        sqlx::query(
            "update public.job set state = 'running', worker = 'worker-1', attempts = 1, fence = 1, started_at = now(),
                lease_expires_at = now() + interval '10 s', phase = 'optimizing'
            where job_id = $1",
        )
        .bind(uuid_of(&training))
        .execute(&mut db)
        .await?;
        sqlx::query(
            "insert into public.job_metric (job_id, step, loss) select $1, step, 9 from generate_series(1, 3) as step",
        )
        .bind(uuid_of(&training))
        .execute(&mut db)
        .await?;
        drop(db);

        // Two API processes of today start at once, then a worker.
        let url = postgres.url();
        let mut second = Command::new(crate::program::path());
        let port = free_port();
        second.args(["serve", "--no-worker", "--listen", &format!("127.0.0.1:{port}")]);
        second.env("DATABASE_URL", &url).env("VSTAR_OBJECT_STORE", objects.path());
        second.env("VSTAR_BASE_MODEL", repository("models/tiny"));
        let mut second = Process::start(second, &log(run.fault.name, "api-2"))?;
        let setup = Setup { objects: Some(objects.path().to_owned()), ..Setup::workers(1) };
        let world = World::on(run.fault.name, postgres, setup).await?;
        let client = Client::new(port);
        until("the second API answers", Duration::from_secs(60), async || {
            second.ended().is_some() || client.is_ready().await
        })
        .await?;
        ensure!(second.ended().is_none(), "the second API ended: {}", second.log_tail());
        second.terminate(Duration::from_secs(30)).await?;

        let limit = LEASE + Duration::from_secs(120);
        let trained = world.client.wait_for(&training, limit, has_ended).await?;
        ensure!(trained["status"] == "succeeded" && trained["attempt"] == 2, "{}", state(&trained));
        let first = world.client.get(&path("training of dog")?).await?;
        if recorded["instruction_set"] == "avx512" && InstructionSet::used() == InstructionSet::Avx512 {
            ensure!(
                world.client.delta_digest(&trained).await? == world.client.delta_digest(&first).await?,
                "the delta has other bytes"
            );
        }
        let steps = world.curve(&training).await?;
        ensure!(steps == (1..=5).collect::<Vec<_>>(), "the curve has the steps {steps:?}");
        let metrics = world.client.get(&format!("{training}/metrics")).await?;
        let of_the_first = metrics["data"].as_array().context("points")?.iter().any(|point| point["loss"] == 9.0);
        ensure!(!of_the_first, "the curve has steps of the attempt that was lost: {metrics}");
        let reasons = trained["previous_attempts"].as_array().context("previous_attempts")?;
        ensure!(reasons.last().is_some_and(|last| last["reason"]["code"] == "worker_lost"), "{}", state(&trained));

        let sampled = world.client.wait_for(&sample, limit, has_ended).await?;
        ensure!(sampled["status"] == "succeeded" && sampled["attempt"] == 2, "{}", state(&sampled));
        let mut unfinished = 0;
        until("every job has ended", limit, async || {
            let query = "select count(*) from job where state in ('queued', 'running')";
            unfinished = sqlx::query_scalar::<_, i64>(query).fetch_one(&world.db).await.unwrap_or(-1);
            unfinished == 0
        })
        .await?;
        Ok(figures([("jobs left", unfinished as f64)]))
    })
    .await
}
