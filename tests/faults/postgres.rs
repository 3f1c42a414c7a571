//! A Postgres server on a port of its own, which can be killed and started again.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::{Process, free_port};
use crate::program::repository;

/// The user nobody: Postgres does not run as root.
const NOBODY: u32 = 65534;

pub(crate) struct Postgres {
    dir: tempfile::TempDir,
    port: u16,
    log: PathBuf,
    server: Option<Process>,
}

impl Postgres {
    /// Makes a cluster and starts its server.
    pub(crate) async fn start(log: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vstar-faults-pg-").tempdir()?;
        if is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY))?;
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700))?;
        let mut initdb = command("initdb")?;
        initdb.arg("-D").arg(dir.path().join("cluster"));
        let made = initdb
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"])
            .output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut postgres = Self { dir, port: free_port(), log: log.to_owned(), server: None };
        postgres.restart().await?;
        Ok(postgres)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Kills the server and each of its processes at once.
    pub(crate) fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let children = children_of(server.id());
        server.kill();
        for child in children {
            // SAFETY: at worst the process has ended already; its number is not reused so soon.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
    }

    /// Starts the server, again if it was killed, and waits until it answers.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let mut server = command("postgres")?;
            server
                .arg("-D")
                .arg(self.dir.path().join("cluster"))
                .args(["-p", &self.port.to_string()]);
            for setting in [
                "listen_addresses=127.0.0.1",
                "unix_socket_directories=",
                "max_connections=200",
                "shared_buffers=64MB",
            ] {
                server.args(["-c", setting]);
            }
            let mut server = Process::start(server, &self.log)?;
            while server.ended().is_none() {
                if self.answers().await {
                    self.server = Some(server);
                    return Ok(());
                }
                ensure!(Instant::now() < limit, "Postgres does not answer");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // What the killed server held is not free yet.
            ensure!(Instant::now() < limit, "Postgres does not start: {}", server.log_tail());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn answers(&self) -> bool {
        use sqlx::Connection;
        match sqlx::PgConnection::connect(&self.url()).await {
            Ok(connection) => connection.close().await.is_ok(),
            Err(_) => false,
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    // SAFETY: has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// A program of Postgres, run as a user that it accepts.
fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(binary(name)?);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir("/");
    Ok(command)
}

/// On the path, among the installed versions, or where `.ci/postgres` unpacks them.
fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let below = |parent: PathBuf| {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().join("bin")).collect::<Vec<_>>()
    };
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(below(PathBuf::from("/usr/lib/postgresql")));
    folders.extend(below(repository(".postgres")));
    folders
        .into_iter()
        .find(|folder| folder.join("postgres").is_file() && folder.join("initdb").is_file())
        .map(|folder| folder.join(name))
        .context("no Postgres binaries are found: run .ci/postgres")
}

/// The processes that a process has started.
fn children_of(parent: i32) -> Vec<i32> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse() else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // "12 (postgres) S 1 …": the name may have spaces, the parent is the second word after it.
        let after = stat.rsplit(") ").next().unwrap_or_default();
        if after.split(' ').nth(1).and_then(|text| text.parse().ok()) == Some(parent) {
            children.push(id);
        }
    }
    children
}
