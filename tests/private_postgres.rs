//! The private Postgres, for real: a process that is killed, its server, and the next start on the same data.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use vstar::postgres::{PostgresError, PrivatePostgres};

/// A process that holds a durable server on `data` until it is killed.
fn holder(data: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_vstar"))
        .args(["serve", "--no-worker", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < limit, "{what} did not happen within a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_ready(data: &Path) -> bool {
    let status =
        std::fs::read_to_string(data.join("postgres/cluster/postmaster.pid")).unwrap_or_default();
    status.lines().last().is_some_and(|line| line.trim() == "ready")
}

#[test]
fn a_killed_process_takes_its_server_along_and_the_next_start_finds_the_data() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let mut process = holder(dir.path());
        wait_for("the server's start", || is_ready(dir.path()));
        std::thread::sleep(Duration::from_millis(37 * round)); // in the middle of this and that

        process.kill().unwrap();
        process.wait().unwrap();

        wait_for("the server's end", || {
            !dir.path().join("postgres/cluster/postmaster.pid").exists()
        });
    }
    let server = PrivatePostgres::start(&dir.path().join("postgres"), None, true).unwrap();
    assert!(server.url().starts_with("postgres://postgres@"));
}

#[test]
fn two_processes_cannot_use_one_database() {
    let dir = tempfile::tempdir().unwrap();
    let _first = PrivatePostgres::start(dir.path(), None, false).unwrap();

    let second = PrivatePostgres::start(dir.path(), None, false);

    let Err(PostgresError::InUse { holder, .. }) = second else { panic!("{second:?}") };
    assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
}

/// The program says who it is: the second one's message leads to the first.
#[test]
fn a_second_program_on_the_same_folder_is_told_of_the_first_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = holder(dir.path());
    let lock = dir.path().join("postgres/lock");
    let note = || std::fs::read_to_string(&lock).unwrap_or_default();
    wait_for("the holder's note", || note().contains("http://127.0.0.1:"));
    let address = note().lines().find(|line| line.starts_with("http")).unwrap().to_owned();

    for command in [&["serve", "--no-worker", "--listen", "127.0.0.1:0"][..], &["migrate"]] {
        let mut second = Command::new(env!("CARGO_BIN_EXE_vstar"));
        second.args(command).arg("--data-dir").arg(dir.path()).env_remove("DATABASE_URL");
        let second = second.output().unwrap();
        let said = String::from_utf8(second.stderr).unwrap();

        assert!(!second.status.success());
        let process = format!("process {}", first.id());
        for part in [&*process, &*address, "--data-dir"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    assert!(note().contains(&address), "the note is still the first one's");
    assert!(is_ready(dir.path()) && first.try_wait().unwrap().is_none());
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn a_folder_of_another_major_version_is_refused_before_anything_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("cluster");
    std::fs::create_dir_all(&cluster).unwrap();
    std::fs::write(cluster.join("PG_VERSION"), "9\n").unwrap();

    let checked = PrivatePostgres::check(dir.path(), None);
    let started = PrivatePostgres::start(dir.path(), None, false);

    for refused in [checked.err(), started.err()] {
        let refused = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(
            refused.contains("was made by Postgres 9") && refused.contains("--pg-bin"),
            "{refused}"
        );
    }
    assert_eq!(std::fs::read_to_string(cluster.join("PG_VERSION")).unwrap(), "9\n");
}

#[test]
fn a_start_that_was_killed_half_way_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join("cluster.new");
    std::fs::create_dir_all(&half).unwrap();
    std::fs::write(half.join("PG_VERSION"), "15\n").unwrap();

    let server = PrivatePostgres::start(dir.path(), None, false);

    assert!(server.is_ok(), "{server:?}");
    assert!(!half.exists());
}

#[test]
fn missing_binaries_are_told_with_their_remedies() {
    let dir = tempfile::tempdir().unwrap();

    let error = PrivatePostgres::start(dir.path(), Some(dir.path()), false)
        .err()
        .map(|error| error.to_string());

    let error = error.unwrap_or_default();
    assert!(
        [
            &*dir.path().display().to_string(),
            "apt-get install postgresql",
            "--pg-bin",
            "DATABASE_URL"
        ]
        .iter()
        .all(|remedy| error.contains(remedy)),
        "{error}"
    );
}

#[test]
fn a_server_that_does_not_answer_does_not_hold_the_end_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = PrivatePostgres::start(dir.path(), None, true).unwrap();
    let status = std::fs::read_to_string(dir.path().join("cluster/postmaster.pid")).unwrap();
    let stopped = Command::new("kill").args(["-STOP", status.lines().next().unwrap()]).status();
    assert!(stopped.unwrap().success());

    let began = Instant::now();
    drop(server);
    let took = began.elapsed();
    let again = PrivatePostgres::start(dir.path(), None, true);

    assert!(took < Duration::from_secs(12), "{took:?}");
    assert!(again.is_ok(), "{again:?}");
}

/// A disk of 100 MB that can be filled; unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this process may not mount one.
    fn mount() -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=100m", "tmpfs"])
            .arg(disk.0.path())
            .stderr(Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(disk)
    }

    /// Leaves so many MiB.
    fn fill_up_to(&self, left: usize) {
        let mut file = std::fs::File::create(self.0.path().join("fill")).unwrap();
        let mut written = 0;
        while written < 100 - left && file.write_all(&[1; 1 << 20]).is_ok() {
            written += 1;
        }
        if left == 0 {
            while file.write_all(&[1; 512]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("fill")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_harms_nothing_and_works_again_once_there_is_space() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not tested: no disk can be mounted here");
        return;
    };
    let data = disk.0.path().join("data");

    disk.fill_up_to(15);
    let error = PrivatePostgres::start(&data, None, true).err().map(|error| error.to_string());
    let error = error.unwrap_or_default();
    assert!(error.contains("initdb failed") && error.contains("space"), "{error}");
    disk.free();

    let server = PrivatePostgres::start(&data, None, true).unwrap();
    let db = PgPool::connect(server.url()).await.unwrap();
    sqlx::query("create table kept (id bigint primary key, text text)").execute(&db).await.unwrap();
    let insert = async |id: i64| {
        let text = "x".repeat(2000);
        let insert = sqlx::query("insert into kept values ($1, $2)").bind(id).bind(text);
        insert.execute(&db).await
    };
    let mut acknowledged = 0;
    for _ in 0..20 {
        insert(acknowledged).await.unwrap();
        acknowledged += 1;
    }
    disk.fill_up_to(0);
    let refused = loop {
        match insert(acknowledged).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 100_000, "the disk does not get full");
    };
    disk.free();
    let began = Instant::now();
    while insert(acknowledged).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not recover");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    assert!(vstar::db::is_unavailable(&refused), "{refused}");
    let count: i64 = sqlx::query_scalar("select count(*) from kept").fetch_one(&db).await.unwrap();
    assert_eq!(count, acknowledged + 1);
    db.close().await;
    drop(server);
}
