//! The private Postgres that runs when no database is given.
//!
//! It is found on the machine, keeps its data below the data folder, listens on a Unix socket alone, and ends with
//! this process: the kernel sends it a signal when the thread that started it is gone, so even `kill -9` leaves no
//! server behind.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The oldest major version that the catalog's statements were written for.
const OLDEST: u32 = 14;
/// How long a start may take; a server that was killed needs to recover first.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The user that the server runs as if this process is root, which Postgres refuses: nobody.
const NOBODY: u32 = 65534;

/// Why there is no private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(
        "no Postgres binaries were found: install them (Debian: apt-get install postgresql), point --pg-bin at a \
         folder with `initdb` and `postgres`, or set DATABASE_URL to a running server"
    )]
    NotFound,
    #[error(
        "the database in {data} was made by Postgres {found}, the binaries in {bin} are version {expected}: \
             point --pg-bin at version {found}"
    )]
    WrongVersion { data: PathBuf, found: String, bin: PathBuf, expected: u32 },
    #[error("Postgres in {bin} is version {version}, at least {OLDEST} is needed")]
    TooOld { bin: PathBuf, version: u32 },
    #[error("another process uses the database in {0}: stop it, or choose another --data-dir")]
    InUse(PathBuf),
    #[error("{what} failed: {detail}")]
    Failed { what: &'static str, detail: String },
    #[error("the private Postgres cannot be set up")]
    Io(#[from] io::Error),
}

/// A running server; it stops when this is dropped.
#[derive(Debug)]
pub struct PrivatePostgres {
    url: String,
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// The socket lies here: paths of sockets are short, data folders may not be.
    _socket: TempDir,
    _lock: File,
}

impl PrivatePostgres {
    /// Starts the server of `data`, which is made if it is not there. Blocks until the server answers.
    ///
    /// With `durable` off the server does not wait for the disk. This is for tests, whose data is deleted.
    pub fn start(data: &Path, bin: Option<&Path>, durable: bool) -> Result<Self, PostgresError> {
        let bin = find_binaries(bin).ok_or(PostgresError::NotFound)?;
        let version = major_version(&bin)?;
        if version < OLDEST {
            return Err(PostgresError::TooOld { bin, version });
        }
        std::fs::create_dir_all(data)?;
        let lock = File::create(data.join("lock"))?;
        // SAFETY: the descriptor is open for the whole call.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(PostgresError::InUse(data.to_owned()));
        }
        let cluster = data.join("cluster");
        let identity = Identity::choose(data)?;
        let socket = tempfile::Builder::new().prefix("vstar-").tempdir()?;
        identity.own(socket.path())?;
        if !cluster.join("PG_VERSION").exists() {
            initialize(&bin, &cluster, &identity)?;
        }
        let found = std::fs::read_to_string(cluster.join("PG_VERSION"))?.trim().to_owned();
        if found != version.to_string() {
            return Err(PostgresError::WrongVersion {
                data: cluster,
                found,
                bin,
                expected: version,
            });
        }

        let log = data.join("postgres.log");
        let command = ServerCommand {
            bin: bin.clone(),
            cluster,
            socket: socket.path().to_owned(),
            log: log.clone(),
            durable,
            identity,
        };
        let (stop, stopped) = std::sync::mpsc::channel();
        let (report, reported) = std::sync::mpsc::channel();
        // The death signal is tied to the thread that started the server: this one stays as long as the server.
        let thread = std::thread::Builder::new().name("postgres".into()).spawn(move || {
            match command.start_until_ready() {
                Ok(mut server) => {
                    let _ = report.send(Ok(()));
                    let _ = stopped.recv(); // also when the sender is gone
                    interrupt(&mut server);
                }
                Err(error) => drop(report.send(Err(error))),
            }
        })?;
        reported.recv().map_err(|_| PostgresError::Failed {
            what: "postgres",
            detail: "its thread ended".into(),
        })??;
        Ok(Self {
            url: url_of(socket.path()),
            stop: Some(stop),
            thread: Some(thread),
            _socket: socket,
            _lock: lock,
        })
    }

    /// Where clients connect to.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Where the server of `data` answers, if another process runs it.
pub fn running(data: &Path) -> Option<String> {
    let status = std::fs::read_to_string(data.join("cluster/postmaster.pid")).ok()?;
    let socket = status.lines().nth(4)?.trim(); // as documented in the server's miscadmin.h
    std::os::unix::net::UnixStream::connect(Path::new(socket).join(".s.PGSQL.5432")).ok()?;
    Some(url_of(Path::new(socket)))
}

fn url_of(socket: &Path) -> String {
    let host = socket.display().to_string().replace('/', "%2F");
    format!("postgres://postgres@{host}/postgres")
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Who the server's processes are.
#[derive(Clone, Copy, Debug)]
enum Identity {
    /// We are not root: as we are.
    Same,
    /// Root outside, nobody inside of a user namespace: files stay root's, and any folder can be used.
    Namespace,
    /// The user nobody, who then owns the data folder.
    Nobody,
}

impl Identity {
    fn choose(data: &Path) -> io::Result<Self> {
        // SAFETY: has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(Self::Same);
        }
        let mut probe = Command::new("true");
        Self::Namespace.apply(&mut probe);
        if probe.status().is_ok_and(|status| status.success()) {
            return Ok(Self::Namespace);
        }
        chown(data, Some(NOBODY), Some(NOBODY))?;
        Ok(Self::Nobody)
    }

    /// Makes the server's user the owner of a folder.
    fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Same | Self::Namespace => Ok(()),
            Self::Nobody => chown(path, Some(NOBODY), Some(NOBODY)),
        }
    }

    /// Makes the command run as this identity.
    fn apply(self, command: &mut Command) {
        match self {
            Self::Same => {}
            Self::Nobody => {
                command.uid(NOBODY).gid(NOBODY);
            }
            // SAFETY: between fork and exec only system calls are made, on strings that exist already.
            Self::Namespace => unsafe {
                command.pre_exec(|| {
                    if libc::unshare(libc::CLONE_NEWUSER) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                    write_file(c"/proc/self/setgroups", b"deny")?;
                    write_file(c"/proc/self/uid_map", b"65534 0 1\n")?;
                    write_file(c"/proc/self/gid_map", b"65534 0 1\n")
                });
            },
        }
    }
}

/// Writes a small file without allocating: usable between fork and exec.
fn write_file(path: &std::ffi::CStr, content: &[u8]) -> io::Result<()> {
    // SAFETY: path and content are valid for the calls; the descriptor is ours and closed once.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY);
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        let written = libc::write(file, content.as_ptr().cast(), content.len());
        let error = io::Error::last_os_error();
        libc::close(file);
        if written == content.len() as isize { Ok(()) } else { Err(error) }
    }
}

/// What the server is started with.
struct ServerCommand {
    bin: PathBuf,
    cluster: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    durable: bool,
    identity: Identity,
}

impl ServerCommand {
    /// Starts the server until it answers: right after a crash, remains of the last one may still be in the way.
    fn start_until_ready(&self) -> Result<Child, PostgresError> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            let mut server = self.spawn()?;
            while Instant::now() < limit {
                if self.answers() {
                    return Ok(server);
                }
                if server.try_wait()?.is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(30));
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
            std::thread::sleep(Duration::from_millis(300));
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

    /// Whether the socket accepts connections.
    fn answers(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.socket.join(".s.PGSQL.5432")).is_ok() && {
            // The socket is there before recovery is over; the server's own file says when it is.
            let status =
                std::fs::read_to_string(self.cluster.join("postmaster.pid")).unwrap_or_default();
            status.lines().last().is_some_and(|line| line.trim() == "ready")
        }
    }
}

/// Makes the cluster beside its place and moves it there when it is complete: a start that is killed leaves no half.
fn initialize(bin: &Path, cluster: &Path, identity: &Identity) -> Result<(), PostgresError> {
    let unfinished = cluster.with_extension("new");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)?;
    }
    std::fs::create_dir_all(&unfinished)?;
    std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o700))?;
    identity.own(&unfinished)?;
    let mut command = Command::new(bin.join("initdb"));
    command.arg("-D").arg(&unfinished).args([
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
    ]);
    identity.apply(&mut command);
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let detail = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(PostgresError::Failed { what: "initdb", detail });
    }
    Ok(std::fs::rename(&unfinished, cluster)?)
}

/// Asks the server for a fast shutdown and waits for it.
fn interrupt(server: &mut Child) {
    // SAFETY: the process is our child and not yet waited for.
    unsafe { libc::kill(server.id() as libc::pid_t, libc::SIGINT) };
    let _ = server.wait();
}

/// The folder with `postgres` and `initdb`: the given one, the one on the path, or the newest installed.
fn find_binaries(given: Option<&Path>) -> Option<PathBuf> {
    let complete = |dir: &Path| dir.join("postgres").is_file() && dir.join("initdb").is_file();
    if let Some(dir) = given {
        return complete(dir).then(|| dir.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(dir) = std::env::split_paths(&path).find(|dir| complete(dir)) {
        return Some(dir);
    }
    let mut installed = Vec::new();
    // `.postgres` is where the repository's own script unpacks what it downloads.
    let unpacked = crate::config::bundled(".postgres").unwrap_or_default();
    let unpacked = unpacked.to_string_lossy();
    for (parent, below) in [
        (&*unpacked, "bin"),
        ("/usr/lib/postgresql", "bin"),
        ("/opt/homebrew/opt", "bin"),
        ("/usr/local/opt", "bin"),
    ] {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let dir = entry.path().join(below);
            if complete(&dir) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let digits: String = name.chars().filter(char::is_ascii_digit).collect();
                installed.push((digits.parse::<u32>().unwrap_or(0), dir));
            }
        }
    }
    // Red Hat's packages: /usr/pgsql-16/bin
    for version in OLDEST..OLDEST + 10 {
        let dir = PathBuf::from(format!("/usr/pgsql-{version}/bin"));
        if complete(&dir) {
            installed.push((version, dir));
        }
    }
    installed.into_iter().max().map(|(_, dir)| dir)
}

fn major_version(bin: &Path) -> Result<u32, PostgresError> {
    let output = Command::new(bin.join("postgres")).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "postgres (PostgreSQL) 15.18 (Debian …)"
    let version = text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok());
    version.ok_or(PostgresError::Failed { what: "postgres --version", detail: text })
}

/// The last lines of the server's log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
