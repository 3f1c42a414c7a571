//! The server's process: started, watched and ended.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::PostgresError;
use super::identity::Identity;

/// How long a start may take; a server that was killed needs to recover first.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a server may take for its fast shutdown, and then for the one without a checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(8);
const QUIT_LIMIT: Duration = Duration::from_secs(2);
/// How often a running server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The pause after a start that failed, doubled from one to the next.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the server is started with.
pub(super) struct ServerCommand {
    pub(super) bin: PathBuf,
    pub(super) cluster: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) log: PathBuf,
    pub(super) durable: bool,
    pub(super) identity: Identity,
}

impl ServerCommand {
    /// Runs the server until it is told to stop. One that dies is started again.
    ///
    /// - `report`: receives how the first start went
    pub(super) fn supervise(
        &self,
        stopped: &Receiver<()>,
        report: Sender<Result<(), PostgresError>>,
    ) {
        let mut server = match self.start_until_ready(stopped) {
            Ok(Some(server)) => server,
            Ok(None) => return,
            Err(error) => return drop(report.send(Err(error))),
        };
        let _ = report.send(Ok(()));
        loop {
            if is_stopped(stopped, LOOK_EVERY) {
                return interrupt(&mut server);
            }
            let status = match server.try_wait() {
                Ok(Some(status)) => status,
                Ok(None) | Err(_) => continue,
            };
            tracing::error!(%status, log = %self.log.display(), "the private Postgres ended, starting it again");
            match self.start_again(stopped) {
                Some(again) => server = again,
                None => return,
            }
            tracing::info!("the private Postgres answers again");
        }
    }

    /// Tries until the server answers; `None` if it is told to stop.
    fn start_again(&self, stopped: &Receiver<()>) -> Option<Child> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.start_until_ready(stopped) {
                Ok(server) => return server,
                Err(error) => {
                    tracing::error!(%error, "the private Postgres does not start, trying again in {pause:?}")
                }
            }
            if is_stopped(stopped, pause) {
                return None;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Starts the server until it answers: right after a crash, remains of the last one may still be in the way. Returns
    /// `None` if it is told to stop meanwhile.
    fn start_until_ready(&self, stopped: &Receiver<()>) -> Result<Option<Child>, PostgresError> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            let mut server = self.spawn()?;
            while Instant::now() < limit {
                if self.answers(&server) {
                    return Ok(Some(server));
                }
                if server.try_wait()?.is_some() {
                    break;
                }
                if is_stopped(stopped, Duration::from_millis(30)) {
                    interrupt(&mut server);
                    return Ok(None);
                }
            }
            if server.try_wait()?.is_none() {
                interrupt(&mut server);
            }
            if Instant::now() >= limit {
                return Err(PostgresError::Failed {
                    what: "starting postgres",
                    detail: tail(&self.log),
                });
            }
            if is_stopped(stopped, Duration::from_millis(300)) {
                return Ok(None);
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new(self.bin.join("postgres"));
        command.arg("-D").arg(&self.cluster).arg("-k").arg(&self.socket);
        command.args([
            "-c",
            "listen_addresses=",
            "-c",
            "max_connections=100",
            "-c",
            "shared_buffers=128MB",
        ]);
        if !self.durable {
            command.args([
                "-c",
                "fsync=off",
                "-c",
                "synchronous_commit=off",
                "-c",
                "full_page_writes=off",
            ]);
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.process_group(0); // a Ctrl-C at the terminal is for us alone
        self.identity.apply(&mut command);
        // SAFETY: one system call.
        unsafe {
            command.pre_exec(|| {
                // SIGINT is Postgres's fast shutdown. The signal is forgotten at a change of user, so this comes last.
                #[cfg(target_os = "linux")]
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command.spawn()
    }

    /// Whether this server's socket accepts connections.
    fn answers(&self, server: &Child) -> bool {
        std::os::unix::net::UnixStream::connect(self.socket.join(".s.PGSQL.5432")).is_ok() && {
            // The socket is there before recovery is over; the server's own file says when it is.
            let status =
                std::fs::read_to_string(self.cluster.join("postmaster.pid")).unwrap_or_default();
            // The first line is whose file it is: one that was killed leaves its own behind.
            status.lines().next() == Some(server.id().to_string().as_str())
                && status.lines().last().is_some_and(|line| line.trim() == "ready")
        }
    }
}

/// Waits, and returns whether the server is to stop: its owner has dropped the sender.
fn is_stopped(stopped: &Receiver<()>, wait: Duration) -> bool {
    !matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
}

/// Asks the server for a fast shutdown and waits for it. One that does not answer is killed: the next start recovers.
fn interrupt(server: &mut Child) {
    for (signal, limit) in
        [(libc::SIGINT, STOP_LIMIT), (libc::SIGQUIT, QUIT_LIMIT), (libc::SIGKILL, STOP_LIMIT)]
    {
        // SAFETY: the process is our child and not yet waited for.
        unsafe { libc::kill(server.id() as libc::pid_t, signal) };
        let began = Instant::now();
        while began.elapsed() < limit {
            match server.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        tracing::warn!(signal, "the private Postgres does not end within {limit:?}");
    }
}

/// The last lines of the server's log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
