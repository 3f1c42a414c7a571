//! What was found, as a table and as JSON.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::GcOptions;
use crate::domain::storage_key::StorageKey;

/// Lost objects that are named; the others are counted.
const NAMED: usize = 1000;

/// What was found and done.
#[derive(Clone, Debug, Serialize)]
pub struct GcReport {
    pub dry_run: bool,
    pub grace_seconds: u64,
    /// The time by the store's clock.
    pub store_time: DateTime<Utc>,
    pub folders: Vec<Folder>,
    /// Files of a local store whose writing was cut off.
    pub unfinished: usize,
    /// Objects that rows refer to.
    pub rows: usize,
    /// Of those, the ones that are gone or have another size.
    pub lost_count: usize,
    /// The first of the lost ones.
    pub lost: Vec<LostObject>,
}

/// What a folder of the store has.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Folder {
    pub name: &'static str,
    pub objects: usize,
    pub bytes: u64,
    /// Objects within the grace period.
    pub young: usize,
    /// Objects whose names are not of vstar: they stay.
    pub unknown: usize,
    /// Objects that nothing refers to, beyond the grace period.
    pub stray: usize,
    pub stray_bytes: u64,
    pub deleted: usize,
}

/// An object that a row refers to and that cannot be served.
#[derive(Clone, Debug, Serialize)]
pub struct LostObject {
    pub owner: String,
    pub key: StorageKey,
    pub reason: String,
}

impl GcReport {
    pub(super) fn new(options: &GcOptions, store_time: DateTime<Utc>) -> Self {
        Self {
            dry_run: options.dry_run,
            grace_seconds: options.grace.as_secs(),
            store_time,
            folders: Vec::new(),
            unfinished: 0,
            rows: 0,
            lost_count: 0,
            lost: Vec::new(),
        }
    }

    pub(super) fn add_lost(&mut self, lost: LostObject) {
        self.lost_count += 1;
        if self.lost.len() < NAMED {
            self.lost.push(lost);
        }
    }

    /// Strays of all folders.
    pub fn stray(&self) -> usize {
        self.folders.iter().map(|folder| folder.stray).sum()
    }

    /// Objects that were deleted, of all folders.
    pub fn deleted(&self) -> usize {
        self.folders.iter().map(|folder| folder.deleted).sum()
    }
}

impl fmt::Display for GcReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<14}{:>10}{:>12}{:>10}{:>10}{:>10}{:>12}{:>10}",
            "folder", "objects", "MB", "young", "unknown", "stray", "stray MB", "deleted"
        )?;
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        for folder in &self.folders {
            writeln!(
                f,
                "{:<14}{:>10}{:>12.1}{:>10}{:>10}{:>10}{:>12.1}{:>10}",
                folder.name,
                folder.objects,
                megabytes(folder.bytes),
                folder.young,
                folder.unknown,
                folder.stray,
                megabytes(folder.stray_bytes),
                folder.deleted,
            )?;
        }
        if self.unfinished > 0 {
            writeln!(f, "{} unfinished files", self.unfinished)?;
        }
        writeln!(f, "{} objects of rows, {} of them lost", self.rows, self.lost_count)?;
        for lost in &self.lost {
            writeln!(f, "lost: {}, object {}: {}", lost.owner, lost.key, lost.reason)?;
        }
        if self.lost_count > self.lost.len() {
            writeln!(f, "lost: {} more", self.lost_count - self.lost.len())?;
        }
        if self.dry_run {
            writeln!(f, "dry run: nothing was deleted")?;
        }
        Ok(())
    }
}
