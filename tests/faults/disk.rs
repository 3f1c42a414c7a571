//! Disks that run full: small file systems in memory.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::api::check_photos;
use crate::client::{Answer, Client, PATIENCE, has_ended, photos_of, state, training_of};
use crate::process::{Process, free_port, until};
use crate::program::{self, repository};
use crate::report::{Figures, Run, figures};
use crate::sampling::sample_of;
use crate::training::STEPS;
use crate::world::{Setup, World, forget_logs, log};

/// A file system of its own, gone at the end.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where this user may not mount one.
    fn mount(mebibytes: u64) -> Result<Option<Self>> {
        let dir = tempfile::Builder::new().prefix("vstar-faults-disk-").tempdir()?;
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output();
        Ok(mounted.is_ok_and(|output| output.status.success()).then_some(Self { dir }))
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all that is free.
    fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.ballast())?;
        for size in [1 << 20, 4 << 10, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Whether an answer tells the operator and the client what is wrong.
fn is_clear(answer: &Answer) -> Result<()> {
    let code = answer.body["code"].as_str().unwrap_or_default();
    ensure!(answer.status == 503 || answer.status == 507, "{answer:?}");
    ensure!(!code.is_empty() && code != "internal_error", "{answer:?}");
    ensure!(answer.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{answer:?}");
    Ok(())
}

pub(crate) async fn full_store(run: Run) -> Result<()> {
    let Some(disk) = SmallDisk::mount(64)? else {
        return run.skip("no file system can be mounted here");
    };
    let setup = Setup { objects: Some(disk.path().join("objects")), ..Setup::workers(1) };
    let world = World::start(&run, setup).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;

    run.rounds(1, async |round| {
        let handle = format!("full-{}", round.number);
        let body = json!({ "handle": handle, "modifier_token": format!("<{handle}>"), "class_noun": "dog" });
        world.client.post("/v1/concepts", &body).await?;
        // A worker that starts on a full disk says so and ends: it has to be up before.
        let sample = world.client.start("/v1/samples", &sample_of("a dog", 1, 2, 2)).await?;
        world.client.succeeded(&sample).await?;
        disk.fill()?;
        let photos = format!("/v1/concepts/{handle}/images");
        let refused = world.client.try_upload(&photos, &photos_of("dog")).await?;
        is_clear(&refused)?;
        check_photos(&world, &handle, None).await?;
        // What is there can still be read.
        check_photos(&world, "dog", None).await?;
        let training = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        let waits_at_its_end = Duration::from_secs(25);
        let began = Instant::now();
        let mut during = world.client.get(&training).await?;
        while began.elapsed() < waits_at_its_end && !has_ended(&during) {
            tokio::time::sleep(Duration::from_millis(200)).await;
            during = world.client.get(&training).await?;
        }
        ensure!(during["status"] != "succeeded", "its delta has no place: {}", state(&during));
        ensure!(!has_ended(&during), "it failed although space can be made: {}", state(&during));
        disk.free()?;
        let freed = Instant::now();

        let uploaded = world.client.try_upload(&photos, &photos_of("dog")).await?;
        check_photos(&world, &handle, Some(&uploaded.success()?)).await?;
        world.check_training(&training, STEPS, &undisturbed).await?;
        let leftovers = half_files(&disk.path().join("objects"));
        ensure!(leftovers.is_empty(), "half files are left: {leftovers:?}");
        Ok(figures([("s until the waiting training ended", freed.elapsed().as_secs_f64())]))
    })
    .await
}

/// Files that the local store was writing when it had to give up.
fn half_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(half_files(&path)),
            false if path.to_string_lossy().contains('#') => found.push(path),
            false => {}
        }
    }
    found
}

pub(crate) async fn full_postgres(run: Run) -> Result<()> {
    let Some(disk) = SmallDisk::mount(256)? else {
        return run.skip("no file system can be mounted here");
    };
    forget_logs(run.fault.name);
    let objects = tempfile::tempdir()?;
    let port = free_port();
    let start = || {
        let mut command = Command::new(program::path());
        command
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(disk.path());
        command.env_remove("DATABASE_URL").env("VSTAR_OBJECT_STORE", objects.path());
        command.env("VSTAR_BASE_MODEL", repository("models/tiny")).env("RUST_LOG", "info");
        Process::start(command, &log(run.fault.name, "serve"))
    };
    let mut service = start()?;
    let client = Client::new(port);
    until("the service answers", PATIENCE, async || client.is_ready().await).await?;
    client.concept("dog", "dog").await?;
    let sample = sample_of("a dog", 1, 1, 10);
    let path = client.start("/v1/samples", &sample).await?;
    let images = client.image_digests(&client.succeeded(&path).await?).await?;

    run.rounds(1, async |_| {
        disk.fill()?;
        // Postgres goes on as long as what it has reserved lasts.
        let began = Instant::now();
        let (mut created, mut refused) = (0, None);
        while refused.is_none() {
            ensure!(began.elapsed() < Duration::from_secs(120), "the database never runs full");
            let handle = format!("h-{created}");
            let body = json!({ "handle": handle, "class_noun": "d".repeat(20) });
            let answer = client.try_post("/v1/concepts", &body).await?;
            match answer.status {
                201 => created += 1,
                _ => refused = Some(answer),
            }
        }
        let refused = refused.unwrap();
        let alive = client.try_get("/livez").await?;
        ensure!(alive.is_success(), "{alive:?}");
        disk.free()?;
        let freed = Instant::now();
        until("the service is ready again", Duration::from_secs(90), async || {
            client.is_ready().await
        })
        .await?;
        let recovery = freed.elapsed();
        is_clear(&refused)?;
        for number in [0, created - 1] {
            client.get(&format!("/v1/concepts/h-{number}")).await?;
        }
        let concept = client.get("/v1/concepts/dog").await?;
        ensure!(concept["image_count"] == 4, "{concept}");
        let path = client.start("/v1/samples", &sample).await?;
        let again = client.image_digests(&client.succeeded(&path).await?).await?;
        ensure!(again == images, "other images");
        Ok(figures([
            ("s until ready", recovery.as_secs_f64()),
            ("rows until full", f64::from(created)),
        ]))
    })
    .await?;
    // What Postgres has written survives a restart as well.
    service.terminate(Duration::from_secs(40)).await?;
    let _again = start()?;
    until("the service answers again", PATIENCE, async || client.is_ready().await).await?;
    let concept = client.get("/v1/concepts/dog").await?;
    ensure!(concept["image_count"] == 4, "{concept}");
    let _: Figures = Figures::new();
    Ok(())
}
