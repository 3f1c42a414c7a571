//! Whether a folder can be made and written to, without making it.

use std::path::Path;

use anyhow::{Context, Result, anyhow};

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
    tempfile::tempfile_in(existing).map(drop).with_context(|| {
        format!(
            "{} cannot be written to: choose another folder, or change its owner",
            existing.display()
        )
    })
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
