//! The private Postgres that runs when no database is given.
//!
//! It is found on the machine, keeps its data below the data folder, listens on a Unix socket alone, and ends with
//! this process: the kernel sends it a signal when the thread that started it is gone, so even `kill -9` leaves no
//! server behind. A server that dies while the process lives is started again.

mod binaries;
mod cluster;
mod identity;
mod server;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use tempfile::TempDir;

use self::binaries::OLDEST;
use self::cluster::Lock;
use self::identity::Identity;
use self::server::ServerCommand;

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
    #[error(
        "--pg-bin {0}: there is no `initdb` and `postgres` in it: give the folder that has them, such as \
         /usr/lib/postgresql/15/bin after apt-get install postgresql, or set DATABASE_URL to a running server"
    )]
    NotInFolder(PathBuf),
    #[error("{holder} uses the database in {data}: stop it, or choose another --data-dir")]
    InUse { data: PathBuf, holder: String },
    #[error("{what} failed: {detail}")]
    Failed { what: &'static str, detail: String },
    #[error("the private Postgres cannot be set up")]
    Io(#[from] io::Error),
}

/// A running server; it stops when this is dropped.
#[derive(Debug)]
pub struct PrivatePostgres {
    url: String,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// The socket lies here: paths of sockets are short, data folders may not be.
    _socket: TempDir,
    lock: Lock,
}

impl PrivatePostgres {
    /// Looks whether a server of `data` could be started, and makes nothing.
    ///
    /// # Errors
    /// As far as [`Self::start`] would find them before it starts the server.
    pub fn check(data: &Path, bin: Option<&Path>) -> Result<(), PostgresError> {
        let (bin, version) = binaries::usable(bin)?;
        cluster::check_free(data)?;
        cluster::check_version(data, &bin, version)
    }

    /// Starts the server of `data`, which is made if it is not there. Blocks until the server answers.
    ///
    /// With `durable` off the server does not wait for the disk. This is for tests, whose data is deleted.
    ///
    /// # Errors
    /// [`PostgresError`]
    pub fn start(data: &Path, bin: Option<&Path>, durable: bool) -> Result<Self, PostgresError> {
        let (bin, version) = binaries::usable(bin)?;
        std::fs::create_dir_all(data)?;
        let lock = Lock::take(data)?;
        let cluster = cluster::folder(data);
        let identity = Identity::choose(data)?;
        let socket = tempfile::Builder::new().prefix("vstar-").tempdir()?;
        identity.own(socket.path())?;
        if !cluster.join("PG_VERSION").exists() {
            cluster::initialize(&bin, &cluster, &identity)?;
        }
        cluster::check_version(data, &bin, version)?;

        let command = ServerCommand {
            bin,
            cluster,
            socket: socket.path().to_owned(),
            log: data.join("postgres.log"),
            durable,
            identity,
        };
        let (stop, stopped) = mpsc::channel();
        let (report, reported) = mpsc::channel();
        // The death signal is tied to the thread that started the server: this one stays as long as the server.
        let thread = std::thread::Builder::new()
            .name("postgres".into())
            .spawn(move || command.supervise(&stopped, report))?;
        reported.recv().map_err(|_| PostgresError::Failed {
            what: "postgres",
            detail: "its thread ended".into(),
        })??;
        Ok(Self {
            url: url_of(socket.path()),
            stop: Some(stop),
            thread: Some(thread),
            _socket: socket,
            lock,
        })
    }

    /// Where clients connect to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Writes what a second process on the same folder is told about this one.
    pub fn note_holder(&self, holder: &str) {
        // Only a text for people is lost.
        let _ = self.lock.note(holder);
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
