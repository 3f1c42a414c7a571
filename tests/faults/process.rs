//! A process that is started, signalled, waited for, and gone at the end of the test.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A running process.
pub(crate) struct Process {
    child: Child,
    /// Where it logs to.
    pub(crate) log: PathBuf,
}

impl Process {
    /// Starts a command whose output goes to `log`. It is killed when the thread that starts it ends.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // SAFETY: one system call.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().with_context(|| format!("{command:?} cannot be started"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub(crate) fn id(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: the process is our child and not yet waited for.
        unsafe { libc::kill(self.id(), signal) };
    }

    /// Sends SIGKILL and waits.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end; returns its status and how long that took.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok((status, began.elapsed()));
            }
            if began.elapsed() > limit {
                bail!("process {} does not end within {limit:?}: {}", self.id(), self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends SIGTERM and waits; returns how long that took.
    pub(crate) async fn terminate(&mut self, limit: Duration) -> Result<Duration> {
        self.signal(libc::SIGTERM);
        let (status, took) = self.wait(limit).await?;
        ensure!(status.success(), "ended with {status} after SIGTERM: {}", self.log_tail());
        Ok(took)
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(libc::SIGCONT);
        self.kill();
    }
}

/// A TCP port that is free now.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Waits until something holds.
pub(crate) async fn until(
    what: &str,
    limit: Duration,
    mut holds: impl AsyncFnMut() -> bool,
) -> Result<Duration> {
    let began = Instant::now();
    while !holds().await {
        ensure!(began.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(began.elapsed())
}
