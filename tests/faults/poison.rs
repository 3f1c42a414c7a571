//! Jobs that nobody can finish: one that kills every worker, and jobs whose last worker is gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::client::{has_ended, state, training_of, uuid_of};
use crate::report::{Run, figures};
use crate::sampling::sample_of;
use crate::world::{LEASE, Setup, World};

pub(crate) async fn kills_each_worker(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(2)).await?;

    run.rounds(1, async |_| {
        // Whenever it runs, its worker is killed: that is what a crash in the middle of a job looks like from outside.
        let poison = world.client.start("/v1/samples", &sample_of("poison", 1, 4, 900)).await?;
        let began = Instant::now();
        let mut others = Vec::new();
        let mut kills = 0;
        let ended = loop {
            ensure!(
                began.elapsed() < Duration::from_secs(300),
                "after {kills} kills it has not ended"
            );
            if let Some(worker) = world.holder(&poison).await? {
                world.kill_worker(worker)?;
                kills += 1;
                world.add_worker().await?;
                others.push(
                    world.client.start("/v1/samples", &sample_of("a dog", kills, 1, 20)).await?,
                );
            }
            let job = world.client.get(&poison).await?;
            if has_ended(&job) {
                break job;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        ensure!(ended["status"] == "failed", "{}", state(&ended));
        ensure!(ended["error"]["code"] == "worker_lost", "{}", state(&ended));
        world.has_ended_once(&poison).await?;
        for path in &others {
            world.client.succeeded(path).await?;
        }
        let reasons = ended["previous_attempts"].as_array().context("previous_attempts")?;
        let all_named = reasons.iter().all(|attempt| attempt["reason"]["code"] == "worker_lost");
        ensure!(all_named && reasons.len() == kills, "{kills} kills: {}", state(&ended));
        Ok(figures([
            ("workers killed", kills as f64),
            ("s until failed", began.elapsed().as_secs_f64()),
        ]))
    })
    .await
}

pub(crate) async fn nobody_left(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(3)).await?;
    world.client.concept("dog", "dog").await?;

    run.rounds(1, async |_| {
        let mut jobs = Vec::new();
        for _ in 0..3 {
            jobs.push(world.client.start("/v1/trainings", &training_of("dog", 20_000)).await?);
        }
        let [last_attempt, frozen, canceled_late] = jobs.as_slice() else { unreachable!() };
        for path in &jobs {
            world.client.wait(path, |job| job["status"] == "running").await?;
        }
        // In its last attempt.
        sqlx::query("update job set max_attempts = 1 where job_id = $1")
            .bind(uuid_of(last_attempt))
            .execute(&world.db)
            .await?;
        let kill = async |path: &str| -> Result<()> {
            world.kill_worker(world.holder(path).await?.context("somebody has it")?)
        };
        let cancel =
            async |path: &str| world.client.try_post(&format!("{path}/cancel"), &json!({})).await;

        kill(last_attempt).await?;
        let worker = world.take_worker(world.holder(frozen).await?.context("somebody has it")?)?;
        worker.signal(libc::SIGSTOP);
        let answer = cancel(frozen).await?;
        ensure!(answer.status == 202, "{answer:?}");
        drop(worker);
        kill(canceled_late).await?;
        let answer = cancel(canceled_late).await?;
        ensure!(answer.status == 202, "{answer:?}");
        let killed = Instant::now();
        world.kill_api();
        world.start_api().await?;

        let limit = LEASE + Duration::from_secs(15);
        let mut ended: Vec<Value> = Vec::new();
        for path in &jobs {
            ended.push(world.client.wait_for(path, limit, has_ended).await?);
            world.has_ended_once(path).await?;
        }
        let recovery = killed.elapsed();
        ensure!(ended[0]["status"] == "failed", "{}", state(&ended[0]));
        ensure!(ended[0]["error"]["code"] == "worker_lost", "{}", state(&ended[0]));
        for (path, job) in [(frozen, &ended[1]), (canceled_late, &ended[2])] {
            ensure!(job["status"] == "canceled" && job["attempt"] == 1, "{}", state(job));
            let again = cancel(path).await?;
            ensure!(again.status == 200 && again.body["status"] == "canceled", "{again:?}");
        }
        world.add_worker().await?;
        let next = world.client.start("/v1/trainings", &training_of("dog", 5)).await?;
        world.client.succeeded(&next).await?;
        Ok(figures([("s until ended without a worker", recovery.as_secs_f64())]))
    })
    .await
}
