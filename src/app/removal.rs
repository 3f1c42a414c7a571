//! Deletions: what depends on an object is named, or removed with it; rows first, then their objects in the store.

mod concept;
mod job;
mod parts;

use std::collections::HashSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use sqlx::PgConnection;

use super::{App, Refusal};
use crate::db;
use crate::db::removal::RemovedObject;
use crate::domain::code::Code;
use crate::domain::id::{ConceptId, DeltaId, ImageId, JobId, StudyId};
use crate::domain::invalid::FieldError;
use crate::domain::job::JobKind;
use crate::domain::storage_key::StorageKey;

/// What is to be removed.
#[derive(Clone, Debug, Default)]
struct Removal {
    concepts: Vec<ConceptId>,
    deltas: Vec<DeltaId>,
    jobs: Vec<JobId>,
    images: Vec<ImageId>,
    studies: Vec<StudyId>,
}

/// What a deletion has removed.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    pub concepts: usize,
    pub photos: i64,
    /// Images of samples, and uploads to start samples from.
    pub images: i64,
    pub deltas: usize,
    pub studies: usize,
    pub image_sets: usize,
    pub api_keys: usize,
    pub webhook_endpoints: usize,
    /// What was sent to the endpoints, and what was still to be sent.
    pub webhook_deliveries: i64,
    /// Of each kind that there were any of.
    pub jobs: Vec<(JobKind, i64)>,
    /// The size of the files whose size is known.
    pub size_bytes: i64,
    /// Concepts that are left and have another current delta now, or none.
    pub current_deltas: Vec<(ConceptId, Option<DeltaId>)>,
}

impl Removed {
    /// The number of jobs of a kind.
    pub fn jobs_of(&self, kind: JobKind) -> i64 {
        self.jobs.iter().find(|(of, _)| *of == kind).map_or(0, |(_, count)| *count)
    }
}

/// How many of the things that depend on an object an error names.
const NAMED: usize = 20;

/// Files that are deleted at a time.
const AT_ONCE: usize = 16;

/// How long an answer waits for the files to be deleted. The rest is deleted after it.
const WAIT: Duration = Duration::from_secs(10);

/// Keys that are looked for in tasks at a time.
const KEYS: usize = 500;

/// The refusal to delete what others depend on; `None` if nothing does.
fn in_use(code: Code, dependents: Vec<String>) -> Option<Refusal> {
    let more = dependents.len().saturating_sub(NAMED);
    let error = |detail: String| FieldError::new("cascade", code, detail);
    let mut errors: Vec<FieldError> = dependents.into_iter().take(NAMED).map(error).collect();
    if more > 0 {
        errors.push(error(format!("{more} others depend on it as well")));
    }
    (!errors.is_empty()).then_some(Refusal::InUse(errors))
}

impl App {
    /// Removes rows. Returns what there was, and the objects that they referred to.
    async fn remove(
        &self,
        tx: &mut PgConnection,
        removal: &Removal,
    ) -> Result<(Removed, Vec<RemovedObject>), Refusal> {
        let Removal { concepts, deltas, jobs, images, studies } = removal;
        let mut objects = db::removal::objects_of(&mut *tx, concepts, deltas, jobs, images).await?;
        objects.extend(db::removal::masks_of(&mut *tx, concepts, images).await?);
        let kinds = db::removal::count_kinds(&mut *tx, jobs).await?;
        let mut current_deltas = db::promotion::retire(&mut *tx, deltas).await?;
        current_deltas.retain(|(concept_id, _)| !concepts.contains(concept_id));
        db::removal::remove_studies(&mut *tx, studies).await?;
        db::removal::remove_deltas(&mut *tx, deltas).await?;
        let (photos, others) = db::removal::remove_images(&mut *tx, concepts, jobs, images).await?;
        db::removal::remove_jobs(&mut *tx, jobs).await?;
        db::removal::remove_concepts(&mut *tx, concepts).await?;
        let removed = Removed {
            concepts: concepts.len(),
            photos,
            images: others,
            deltas: deltas.len(),
            studies: studies.len(),
            jobs: kinds,
            size_bytes: objects.iter().filter_map(|object| object.size_bytes).sum(),
            current_deltas,
            ..Removed::default()
        };
        Ok((removed, objects))
    }

    /// Deletes the objects of removed rows, except for those that a job which has not ended still needs. `vstar gc` takes what
    /// is left.
    async fn delete_objects(&self, objects: Vec<RemovedObject>) {
        let deletion = tokio::spawn(self.clone().delete_unneeded(objects));
        if tokio::time::timeout(WAIT, deletion).await.is_err() {
            tracing::info!("the files of a deletion are still being deleted");
        }
    }

    async fn delete_unneeded(self, objects: Vec<RemovedObject>) {
        let keys: Vec<StorageKey> = objects.into_iter().map(|object| object.key).collect();
        for keys in keys.chunks(KEYS) {
            let names: Vec<&str> = keys.iter().map(StorageKey::as_str).collect();
            // No later job can name them: their rows are gone.
            let needed = match db::object::keys_of_tasks(&self.db, &names).await {
                Ok(needed) => needed.into_iter().collect::<HashSet<_>>(),
                Err(error) => {
                    tracing::warn!(%error, "the files of a deletion stay until `vstar gc` takes them");
                    return;
                }
            };
            let mut unneeded = keys.to_vec();
            unneeded.retain(|key| !needed.contains(key));
            let deletions = unneeded.into_iter().map(|key| self.clone().delete_object(key));
            stream::iter(deletions).buffer_unordered(AT_ONCE).collect::<()>().await;
        }
    }

    async fn delete_object(self, key: StorageKey) {
        if let Err(error) = self.storage.delete(&key).await {
            tracing::warn!(%error, %key, "a deleted file stays until `vstar gc` takes it");
        }
    }
}
