//! The binaries of Postgres on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::PostgresError;

/// The oldest major version that the catalog's statements were written for.
pub(super) const OLDEST: u32 = 14;

/// The folder with usable binaries, and their major version.
pub(super) fn usable(given: Option<&Path>) -> Result<(PathBuf, u32), PostgresError> {
    let bin = find_binaries(given).ok_or_else(|| match given {
        Some(dir) => PostgresError::NotInFolder(dir.to_owned()),
        None => PostgresError::NotFound,
    })?;
    let version = major_version(&bin)?;
    match version < OLDEST {
        true => Err(PostgresError::TooOld { bin, version }),
        false => Ok((bin, version)),
    }
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
