//! Rows whose object is gone, or has another size than they say.

use std::collections::HashSet;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use sqlx::PgPool;
use uuid::Uuid;

use super::report::{GcReport, LostObject};
use super::{AT_ONCE, PAGE, referenced};
use crate::db::object::{self, RowObject};
use crate::domain::storage_key::KeyOwner;
use crate::storage::Storage;

/// Looks at the object of every row, without reading it.
pub(super) async fn look_for_objects(
    db: &PgPool,
    storage: &Storage,
    report: &mut GcReport,
) -> Result<()> {
    macro_rules! all_pages {
        ($($query:path),*) => {$(
            let mut after = Uuid::nil();
            loop {
                let (rows, next) = $query(db, after, PAGE as i64).await?;
                look_at(db, storage, rows, report).await?;
                match next {
                    Some(next) => after = next,
                    None => break,
                }
            }
        )*};
    }
    all_pages!(
        object::of_images,
        object::of_masks,
        object::of_deltas,
        object::of_image_sets,
        object::of_reports,
        object::of_checkpoints
    );
    Ok(())
}

async fn look_at(
    db: &PgPool,
    storage: &Storage,
    rows: Vec<RowObject>,
    report: &mut GcReport,
) -> Result<()> {
    report.rows += rows.len();
    let compared = stream::iter(rows.into_iter().map(|row| async move {
        let found = storage.info(&row.key).await?.map(|info| info.size_bytes);
        Ok::<Option<LostObject>, anyhow::Error>(compare(row, found))
    }));
    let lost: Vec<LostObject> = compared
        .buffer_unordered(AT_ONCE)
        .try_filter_map(|lost| async { Ok(lost) })
        .try_collect()
        .await?;
    for lost in still_referenced(db, lost).await? {
        report.add_lost(lost);
    }
    Ok(())
}

fn compare(row: RowObject, found: Option<u64>) -> Option<LostObject> {
    let reason = match (found, row.size_bytes) {
        (None, _) => "it is not there".to_owned(),
        (Some(found), Some(size)) if found != size as u64 => {
            format!("it has {found} bytes instead of {size}")
        }
        (Some(_), _) => return None,
    };
    Some(LostObject { owner: row.owner, key: row.key, reason })
}

/// Without those whose rows are gone by now, such as checkpoints that newer ones have replaced.
async fn still_referenced(db: &PgPool, lost: Vec<LostObject>) -> Result<Vec<LostObject>> {
    let (mut jobs, mut images) = (Vec::new(), Vec::new());
    for one in &lost {
        match one.key.owner() {
            Some(KeyOwner::Job(id)) => jobs.push(id),
            Some(KeyOwner::Image(id)) => images.push(id),
            Some(
                KeyOwner::ImageSet(_)
                | KeyOwner::Incoming(_)
                | KeyOwner::Probe
                | KeyOwner::BaseModel,
            )
            | None => {}
        }
    }
    let keys: HashSet<_> = referenced(db, &mut jobs, &images).await?;
    let is_owned = |one: &LostObject| match one.key.owner() {
        Some(KeyOwner::Job(_) | KeyOwner::Image(_)) => keys.contains(&one.key),
        Some(
            KeyOwner::ImageSet(_) | KeyOwner::Incoming(_) | KeyOwner::Probe | KeyOwner::BaseModel,
        )
        | None => true,
    };
    Ok(lost.into_iter().filter(is_owned).collect())
}
