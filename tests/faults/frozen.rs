//! Workers that are late: frozen past their lease, or back under their old name before it has run out.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::client::{has_ended, state, training_of};
use crate::process::until;
use crate::report::{Figures, Run, figures};
use crate::training::{INTERVAL, STEPS};
use crate::world::{LEASE, Setup, World};

/// How long it takes a worker that goes on to notice that its lease is lost: a heartbeat, on a busy machine.
const NOTICE: Duration = Duration::from_secs(20);

pub(crate) async fn past_its_lease(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(4).checkpoint_every(INTERVAL)).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;

    run.rounds(2, async |round| {
        let path = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        // Some are frozen right before their end, so that what they write late would be that end.
        let step = if round.number % 3 == 2 { STEPS - 1 } else { round.step(1, STEPS - 10) };
        world.reach(&path, step).await?;
        let Some(worker) = world.holder(&path).await? else { return Ok(Figures::new()) };
        let frozen = world.take_worker(worker)?;
        frozen.signal(libc::SIGSTOP);
        let stopped = Instant::now();
        let (fence, _, state_then) = world.lease(&path).await?;
        if state_then != "running" {
            frozen.signal(libc::SIGCONT);
            world.put_back(frozen);
            return Ok(Figures::new());
        }

        let limit = LEASE * 2 + Duration::from_secs(30);
        let again = |job: &serde_json::Value| job["attempt"].as_u64() > Some(1);
        world.client.wait_for(&path, limit, again).await?;
        let taken_up = stopped.elapsed();
        if round.number % 2 == 1 {
            world.client.wait(&path, has_ended).await?; // it comes back after the end
        } else {
            tokio::time::sleep(round.millis(2000)).await;
        }
        let before = world.lease(&path).await?;
        ensure!(before.0 > fence, "the lease has no new number: {before:?}");
        frozen.signal(libc::SIGCONT);

        until("the late worker notices", NOTICE, async || {
            let log = frozen.log_text();
            log.contains("lost the lease") || log.contains("another worker has it")
        })
        .await?;
        let training = world.check_training(&path, STEPS, &undisturbed).await?;
        let after = world.lease(&path).await?;
        ensure!((after.0, &after.1) == (before.0, &before.1), "{before:?} became {after:?}");
        ensure!(training["attempt"] == 2, "{}", state(&training));
        // It is as good as any other worker from now on.
        world.put_back(frozen);
        Ok(figures([("s until taken up", taken_up.as_secs_f64())]))
    })
    .await
}

/// In a container of its own every program has the same process id, and so the same name.
pub(crate) async fn restarted_under_its_name(run: Run) -> Result<()> {
    let container = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    if !Command::new("unshare")
        .args(container)
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        return run.skip("process id namespaces cannot be made here");
    }
    let world = World::start(&run, Setup::workers(1)).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;
    for worker in world.workers() {
        world.kill_worker(worker)?;
    }
    let start = async || -> Result<i32> {
        let inside = world.command("work").await;
        let mut command = Command::new("unshare");
        command.args(container).arg(inside.get_program()).args(inside.get_args());
        for (name, value) in inside.get_envs() {
            command.env(name, value.context("a value")?);
        }
        if crate::program::help("work").contains("--checkpoint-every") {
            command.args(["--checkpoint-every", &INTERVAL.to_string()]);
        }
        world.add_worker_by(command)
    };

    run.rounds(1, async |round| {
        let first = start().await?;
        let path = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        world.reach(&path, round.step(1, STEPS - 20)).await?;
        let (_, name, _) = world.lease(&path).await?;
        world.kill_worker(first)?;
        let killed = Instant::now();

        let second = start().await?;
        let again = |job: &serde_json::Value| has_ended(job) || job["attempt"].as_u64() > Some(1);
        world.client.wait_for(&path, LEASE * 2 + Duration::from_secs(30), again).await?;
        let recovery = killed.elapsed();
        let training = world.check_training(&path, STEPS, &undisturbed).await?;
        world.kill_worker(second)?;

        let (_, name_after, _) = world.lease(&path).await?;
        if name != name_after {
            // Names are unique by themselves, which is one way to hold this.
            ensure!(name.is_some() && name_after.is_some(), "{name:?} {name_after:?}");
        }
        ensure!(training["attempt"].as_u64() <= Some(2), "{}", state(&training));
        Ok(figures([("s until taken up", recovery.as_secs_f64())]))
    })
    .await
}
