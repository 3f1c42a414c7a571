//! Whether a folder can be made and written to, without making it.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::{Error, Result, anyhow};

/// What is written to see that there is room. A full disk still lets empty files be made.
static PROBE: [u8; 65_536] = [1; 65_536];

/// # Errors
/// If the folder, or the nearest one above it that is there, cannot be written to.
pub(super) fn check(folder: &Path) -> Result<()> {
    let path = std::path::absolute(folder)?;
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    let existing = existing.ok_or_else(|| anyhow!("{} cannot be made", folder.display()))?;
    if !existing.is_dir() {
        return Err(anyhow!("{} is a file: choose a folder", existing.display()));
    }
    // A file without a name leaves nothing behind.
    tempfile::tempfile_in(existing).and_then(write_probe).map_err(|error| {
        let place = existing.display();
        let remedy = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                format!("{place} is full: make room, or choose another folder")
            }
            ErrorKind::ReadOnlyFilesystem => {
                format!("{place} cannot be written to: choose another folder, or mount it writable")
            }
            _ => {
                format!("{place} cannot be written to: choose another folder, or change its owner")
            }
        };
        Error::from(error).context(remedy)
    })
}

fn write_probe(mut file: File) -> io::Result<()> {
    file.write_all(&PROBE)?;
    // Some file systems find out only now.
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_judged_by_the_one_above_it_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();

        let good = check(&dir.path().join("a/b"));
        let below_a_file = check(&dir.path().join("file/b")).unwrap_err().to_string();

        assert!(good.is_ok(), "{good:?}");
        assert!(below_a_file.contains("file is a file"), "{below_a_file}");
        assert!(!dir.path().join("a").exists());
    }
}
