//! The private Postgres, for real: a process that is killed, its server, and the next start on the same data.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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
    for _ in 0..3 {
        let mut process = holder(dir.path());
        wait_for("the server's start", || is_ready(dir.path()));

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

    assert!(matches!(second, Err(PostgresError::InUse(_))), "{second:?}");
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
        ["apt-get install postgresql", "--pg-bin", "DATABASE_URL"]
            .iter()
            .all(|remedy| error.contains(remedy)),
        "{error}"
    );
}
