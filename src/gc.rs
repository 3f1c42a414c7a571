//! Objects that nothing refers to: found, and deleted once they are old enough. And rows whose object is gone.
//!
//! Objects are written before their rows, see ADR 0034, so an object without a row is either on its way or litter: of a request
//! or a job that did not finish, or of a row that was deleted. Age tells one from the other. An object of a job that has not
//! ended is never litter, however old it is. Right before the deletion its rows are looked for once more.

mod report;
mod rows;

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use sqlx::PgPool;

use crate::db::{image_set, object, upload};
use crate::domain::id::{ImageId, JobId};
use crate::domain::storage_key::{KeyOwner, StorageKey};
use crate::storage::{ObjectInfo, Storage};

pub use self::report::{Folder, GcReport, LostObject};

/// Objects that are compared with the catalog at a time: a page of S3's lists.
const PAGE: usize = 1000;

/// Strays between one last look at the catalog and the next.
const BATCH: usize = 100;

/// Requests to the store at a time.
const AT_ONCE: usize = 16;

/// What is collected.
#[derive(Clone, Debug, Args)]
pub struct GcOptions {
    /// Says what would be deleted, and deletes nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Objects that were written after this time stay, such as 90s, 30m, 24h or 7d. It must be longer than the longest upload
    /// or other request that writes an object takes until its row is there.
    #[arg(long, default_value = "24h", value_parser = parse_duration)]
    pub grace: Duration,
}

/// Deletes objects that nothing refers to, and looks for the objects that rows refer to.
///
/// # Errors
/// If the catalog or the object store cannot be reached. What was deleted until then was litter; run it again.
pub async fn collect(db: &PgPool, storage: &Storage, options: &GcOptions) -> Result<GcReport> {
    let now = storage.now().await.context("the object store's clock cannot be read")?;
    let limit = now - options.grace;
    let mut report = GcReport::new(options, now);
    for folder in StorageKey::FOLDERS {
        let found = collect_folder(db, storage, folder, limit, options.dry_run).await;
        report.folders.push(found.with_context(|| format!("the folder {folder}/ was left early"))?);
    }
    report.unfinished = collect_unfinished(storage, limit, options.dry_run).await?;
    rows::look_for_objects(db, storage, &mut report).await?;
    Ok(report)
}

async fn collect_folder(
    db: &PgPool,
    storage: &Storage,
    name: &'static str,
    limit: DateTime<Utc>,
    dry_run: bool,
) -> Result<Folder> {
    let mut folder = Folder { name, ..Folder::default() };
    let mut pages = std::pin::pin!(storage.list(name).try_chunks(PAGE));
    while let Some(page) = pages.try_next().await? {
        let mut old = Vec::new();
        for object in page {
            folder.objects += 1;
            folder.bytes += object.size_bytes;
            match object.key.owner() {
                None => folder.unknown += 1,
                Some(KeyOwner::BaseModel) => {}
                // The store's dates may be whole seconds, rounded down.
                Some(_) if object.last_modified + Duration::from_secs(1) >= limit => {
                    folder.young += 1;
                }
                Some(owner) => old.push((object, owner)),
            }
        }
        for stray in strays(db, old).await?.chunks(BATCH) {
            folder.stray += stray.len();
            folder.stray_bytes += stray.iter().map(|(object, _)| object.size_bytes).sum::<u64>();
            if !dry_run {
                folder.deleted += delete(db, storage, stray.to_vec()).await?;
            }
        }
    }
    Ok(folder)
}

/// An object and what its key says that it belongs to.
type Owned = (ObjectInfo, KeyOwner);

/// Those of the objects that nothing refers to now.
async fn strays(db: &PgPool, objects: Vec<Owned>) -> Result<Vec<Owned>> {
    if objects.is_empty() {
        return Ok(objects);
    }
    let (mut jobs, mut images, mut digests, mut uploads) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (_, owner) in &objects {
        match owner {
            KeyOwner::Job(id) => jobs.push(*id),
            KeyOwner::Image(id) => images.push(*id),
            KeyOwner::ImageSet(digest) => digests.push(digest.as_str()),
            KeyOwner::Incoming(id) => uploads.push(*id),
            KeyOwner::Probe | KeyOwner::BaseModel => {}
        }
    }
    let referenced = referenced(db, &mut jobs, &images).await?;
    let of_sets: HashSet<_> = object::digests_of_sets(db, &digests).await?.into_iter().collect();
    let open: HashSet<_> = upload::open(db, &uploads).await?.into_iter().collect();
    let live: HashSet<JobId> = jobs.into_iter().collect();
    let is_stray = |(object, owner): &Owned| match owner {
        KeyOwner::Job(id) => !live.contains(id) && !referenced.contains(&object.key),
        KeyOwner::Image(_) => !referenced.contains(&object.key),
        KeyOwner::ImageSet(digest) => !of_sets.contains(digest),
        KeyOwner::Incoming(id) => !open.contains(id),
        KeyOwner::Probe => true,
        KeyOwner::BaseModel => false,
    };
    let mut left: Vec<Owned> = objects.iter().filter(|one| is_stray(one)).cloned().collect();
    if left.is_empty() {
        return Ok(left);
    }
    // Jobs go on with what their tasks name, also after its row was deleted.
    let keys: Vec<&str> = left.iter().map(|(object, _)| object.key.as_str()).collect();
    let named: HashSet<_> = object::keys_of_tasks(db, &keys).await?.into_iter().collect();
    left.retain(|(object, _)| !named.contains(&object.key));
    Ok(left)
}

/// The keys that rows of these jobs and images have. Leaves only those of the jobs that have not ended.
async fn referenced(
    db: &PgPool,
    jobs: &mut Vec<JobId>,
    images: &[ImageId],
) -> Result<HashSet<StorageKey>> {
    jobs.sort_unstable();
    jobs.dedup();
    // In this order: a job that ends in between is live to the first statement, or has its rows for the second.
    let live = object::live_jobs(db, jobs).await?;
    let mut keys: HashSet<StorageKey> = object::keys_of_jobs(db, jobs).await?.into_iter().collect();
    keys.extend(object::keys_of_images(db, images).await?);
    keys.extend(object::keys_of_masks(db, images).await?);
    *jobs = live;
    Ok(keys)
}

/// Deletes what is still stray. Returns how many that were.
async fn delete(db: &PgPool, storage: &Storage, batch: Vec<Owned>) -> Result<usize> {
    let batch = strays(db, batch).await?;
    let deleted = stream::iter(batch.into_iter().map(|(object, owner)| async move {
        let deleted = match owner {
            KeyOwner::ImageSet(digest) => delete_of_set(db, storage, &object.key, &digest).await?,
            KeyOwner::Image(_)
            | KeyOwner::Job(_)
            | KeyOwner::Incoming(_)
            | KeyOwner::Probe
            | KeyOwner::BaseModel => {
                storage.delete(&object.key).await?;
                true
            }
        };
        if deleted {
            tracing::info!(key = %object.key, size_bytes = object.size_bytes, "deleted a stray object");
        }
        Ok::<usize, anyhow::Error>(usize::from(deleted))
    }));
    deleted.buffer_unordered(AT_ONCE).try_fold(0, |all, one| async move { Ok(all + one) }).await
}

/// Deletes the object of a set, unless the set is recorded again at this moment: the key of equal sets is the same.
async fn delete_of_set(
    db: &PgPool,
    storage: &Storage,
    key: &StorageKey,
    digest: &str,
) -> Result<bool> {
    let mut tx = db.begin().await?;
    image_set::lock_object(&mut *tx, digest).await?;
    let is_stray = object::digests_of_sets(&mut *tx, &[digest]).await?.is_empty()
        && object::keys_of_tasks(&mut *tx, &[key]).await?.is_empty();
    if is_stray {
        storage.delete(key).await?;
    }
    tx.commit().await?;
    Ok(is_stray)
}

/// Files of a local store whose writing was cut off.
async fn collect_unfinished(
    storage: &Storage,
    limit: DateTime<Utc>,
    dry_run: bool,
) -> Result<usize> {
    let unfinished = storage.unfinished(limit).await?;
    if !dry_run {
        for file in &unfinished {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => {
                    removed.with_context(|| format!("{} cannot be deleted", file.display()))?;
                }
            }
        }
    }
    Ok(unfinished.len())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86400),
        _ => None,
    };
    let duration =
        number.parse::<u64>().ok().zip(seconds).and_then(|(n, unit)| n.checked_mul(unit));
    duration
        .filter(|&seconds| seconds <= 100 * 365 * 86400)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is not a time: write 90s, 30m, 24h or 7d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_has_a_unit() {
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("90m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86400)));
        for text in ["", "24", "h", "-1h", "1.5h", "24 h", "18446744073709551615d", "36501d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
