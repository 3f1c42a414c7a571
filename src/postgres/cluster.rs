//! The folder with the data of a private Postgres: who has it, which version made it, and how it is made.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::PostgresError;
use super::identity::Identity;

/// The right to use a folder, as long as it lives. The file names its holder.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// # Errors
    /// [`PostgresError::InUse`] with what the holder has written about itself.
    pub(super) fn take(data: &Path) -> Result<Self, PostgresError> {
        let path = data.join("lock");
        // Not emptied: it may be another's.
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
        // SAFETY: the descriptor is open for the whole call.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            let holder = match holder.trim() {
                "" => "another process".to_owned(),
                holder => holder.replace('\n', ", "),
            };
            return Err(PostgresError::InUse { data: data.to_owned(), holder });
        }
        file.set_len(0)?;
        let lock = Self(file);
        lock.note(&format!("process {}", std::process::id()))?;
        Ok(lock)
    }

    /// Adds a line about the holder.
    pub(super) fn note(&self, line: &str) -> io::Result<()> {
        (&self.0).write_all(format!("{line}\n").as_bytes())
    }
}

/// Who holds a folder, if somebody does.
pub(super) fn check_free(data: &Path) -> Result<(), PostgresError> {
    match data.join("lock").exists() {
        true => Lock::take(data).map(drop),
        false => Ok(()),
    }
}

/// The folder of the server itself.
pub(super) fn folder(data: &Path) -> PathBuf {
    data.join("cluster")
}

/// Refuses a cluster that another major version has made.
pub(super) fn check_version(data: &Path, bin: &Path, version: u32) -> Result<(), PostgresError> {
    let cluster = folder(data);
    let found = match std::fs::read_to_string(cluster.join("PG_VERSION")) {
        Ok(found) => found.trim().to_owned(),
        // That the folder cannot be made at all is for others to say.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    match found == version.to_string() {
        true => Ok(()),
        false => Err(PostgresError::WrongVersion {
            data: cluster,
            found,
            bin: bin.to_owned(),
            expected: version,
        }),
    }
}

/// Makes the cluster beside its place and moves it there when it is complete: a start that is killed leaves no half.
pub(super) fn initialize(
    bin: &Path,
    cluster: &Path,
    identity: &Identity,
) -> Result<(), PostgresError> {
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
        let _ = std::fs::remove_dir_all(&unfinished); // the disk may be full
        return Err(PostgresError::Failed { what: "initdb", detail });
    }
    Ok(std::fs::rename(&unfinished, cluster)?)
}
