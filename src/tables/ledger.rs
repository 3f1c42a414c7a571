//! What has been asked of the service and what came out, a file for each, so that a run can go on with an earlier one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file that says that a folder is ours.
const MARK: &str = "ledger";

/// The folder with one file per piece of work.
pub(super) struct Ledger {
    dir: PathBuf,
}

/// A piece of work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// What was asked. An entry counts only for the same request.
    pub(super) request: Value,
    /// Where the job is.
    pub(super) path: String,
    /// None until it has ended.
    pub(super) result: Option<Outcome>,
}

/// How a piece of work has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Succeeded(Value),
    /// The job's own error.
    Failed(String),
}

impl Ledger {
    /// Opens the ledger of a folder for results, which is made if it is not there.
    ///
    /// # Errors
    /// If the folder holds other things.
    pub(super) fn open(out: &Path) -> Result<Self> {
        let dir = out.join(MARK);
        let is_free = match std::fs::read_dir(out) {
            Ok(mut entries) => entries.next().is_none(),
            Err(_) => true,
        };
        ensure!(
            is_free || dir.is_dir(),
            "--out {}: the folder holds other things; choose an empty one",
            out.display()
        );
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("{} cannot be made", dir.display()))?;
        Ok(Self { dir })
    }

    /// What is known of a piece of work, if it was the same request.
    pub(super) fn find(&self, key: &str, request: &Value) -> Option<Entry> {
        let bytes = std::fs::read(self.file(key)).ok()?;
        let entry: Entry = serde_json::from_slice(&bytes).ok()?;
        (entry.request == *request).then_some(entry)
    }

    /// Forgets a piece of work, so that it is done again.
    pub(super) fn forget(&self, key: &str) {
        // There may be none.
        let _ = std::fs::remove_file(self.file(key));
    }

    /// Writes an entry, whole or not at all.
    pub(super) fn write(&self, key: &str, entry: &Entry) -> Result<()> {
        let (file, part) = (self.file(key), self.dir.join("part"));
        let bytes = serde_json::to_vec_pretty(entry)?;
        std::fs::write(&part, bytes)
            .and_then(|()| std::fs::rename(&part, &file))
            .with_context(|| format!("{} cannot be written", file.display()))
    }

    fn file(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{}.json", key.replace('/', ".")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_counts_for_its_own_request_alone() {
        let out = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(out.path()).unwrap();
        let result = Some(Outcome::Succeeded(json!({ "mean": 0.7 })));
        let entry = Entry { request: json!({ "seed": 1 }), path: "/v1/x".to_owned(), result };

        ledger.write("pairs/cat+vase/1", &entry).unwrap();

        let again = Ledger::open(out.path()).unwrap();
        let found = again.find("pairs/cat+vase/1", &json!({ "seed": 1 })).unwrap();
        assert!(matches!(found.result, Some(Outcome::Succeeded(report)) if report["mean"] == 0.7));
        assert!(again.find("pairs/cat+vase/1", &json!({ "seed": 2 })).is_none());
        assert!(again.find("pairs/cat+vase/2", &json!({ "seed": 1 })).is_none());
        again.forget("pairs/cat+vase/1");
        assert!(again.find("pairs/cat+vase/1", &json!({ "seed": 1 })).is_none());
    }

    #[test]
    fn a_folder_with_other_things_is_left_alone() {
        let out = tempfile::tempdir().unwrap();
        std::fs::write(out.path().join("holiday.jpg"), "").unwrap();

        assert!(Ledger::open(out.path()).is_err());
    }
}
