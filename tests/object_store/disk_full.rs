//! A folder on a disk that is full.

use std::path::Path;
use std::process::Command;

use futures::TryStreamExt;
use vstar::domain::digest::Digest;
use vstar::domain::id::ImageId;
use vstar::storage::{Storage, StorageError, StorageKey};

use crate::suite::bytes;

/// A file system of 8 MB; it is unmounted with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where mounting is not allowed.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(folder.path())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_damages_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        println!("not tested: only root may mount the small disk of this test");
        return;
    };
    let place = disk.path().join("objects");
    let storage = Storage::open(&place.display().to_string()).unwrap();
    let mut written = Vec::new();
    let full = loop {
        let key = StorageKey::upload(ImageId::generate());
        let content = bytes(1_000_000, written.len() as u32);
        let sha256 = Digest::of(&content);
        match storage.write(&key, content).await {
            Ok(()) => written.push((key, sha256)),
            Err(error) => break (key, error),
        }
        assert!(written.len() < 9, "the disk is larger than it should be");
    };
    let (key, error) = full;

    assert!(matches!(error, StorageError::Full { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("full"), "{error}");
    let large = storage.write(&StorageKey::upload(ImageId::generate()), bytes(20_000_000, 1)).await;
    assert!(matches!(large, Err(StorageError::Full { .. })), "{large:?}");
    assert!(written.len() >= 6, "{}", written.len());
    for (key, sha256) in &written {
        storage.read_checked(key, sha256).await.unwrap();
    }
    assert!(!storage.exists(&key).await.unwrap(), "half an object");
    let files = std::fs::read_dir(place.join("uploads")).unwrap().count();
    assert_eq!(files, written.len(), "unfinished files are left");

    // Room is made, and it goes on.
    storage.delete(&written[0].0).await.unwrap();
    storage.write(&key, bytes(1_000_000, 99)).await.unwrap();
    assert_eq!(storage.read(&key).await.unwrap(), bytes(1_000_000, 99));
    let listed: Vec<_> = storage.list("uploads").try_collect().await.unwrap();
    assert_eq!(listed.len(), written.len());
}

#[tokio::test]
async fn a_write_that_was_cut_off_leaves_nothing_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&folder.path().display().to_string()).unwrap();
    let key = StorageKey::upload(ImageId::generate());
    storage.write(&key, "content").await.unwrap();
    // What a process leaves that is killed while it writes.
    let cut = folder.path().join("uploads/img_1.png#1");
    std::fs::write(&cut, "con").unwrap();

    let before = chrono::Utc::now() + chrono::TimeDelta::seconds(1);
    assert_eq!(storage.unfinished(before).await.unwrap(), [std::fs::canonicalize(&cut).unwrap()]);
    let before = chrono::Utc::now() - chrono::TimeDelta::seconds(60);
    assert!(storage.unfinished(before).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_folder_that_is_gone_has_lost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("objects");
    let storage = Storage::open(&place.display().to_string()).unwrap();
    let key = StorageKey::upload(ImageId::generate());
    storage.write(&key, "content").await.unwrap();

    // As a disk does that is not mounted.
    std::fs::rename(&place, folder.path().join("elsewhere")).unwrap();

    let error = storage.read(&key).await.unwrap_err();
    assert!(matches!(error, StorageError::Unreachable { .. }), "{error:?}");
    assert!(storage.exists(&key).await.is_err());
}
