//! Compressions: a delta in fewer numbers.

use super::binding::check_base_model;
use super::job::Compression;
use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::compression::{CompressionTask, Keep};
use crate::domain::id::DeltaId;
use crate::domain::version::TaskVersion;

/// A compression to start.
#[derive(Clone, Copy, Debug)]
pub struct NewCompression {
    /// Either this or `energy`.
    pub rank: Option<usize>,
    pub energy: Option<f64>,
    pub make_current: bool,
}

impl App {
    /// Queues the compression of a delta.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such delta; [`Refusal::Invalid`] if it is of another base model, or if not exactly
    /// one of rank and energy is given; [`Refusal::QueueFull`].
    pub async fn start_compression(
        &self,
        caller: &Caller,
        delta_id: DeltaId,
        new: NewCompression,
    ) -> Result<Compression, Refusal> {
        let keep = Keep::new(new.rank, new.energy)?;
        let mut tx = self.db.begin().await?;
        let found = db::delta::find(&mut *tx, &[delta_id]).await?;
        let delta = found.into_iter().next();
        let delta = delta.ok_or_else(|| Refusal::not_found("delta", delta_id))?;
        check_base_model(&delta, &self.model, "delta_id")?;
        let concepts = db::delta::concepts_of(&mut *tx, &[delta_id]).await?;
        let task = CompressionTask {
            version: TaskVersion::NEWEST,
            base_digest: self.model.digest.clone(),
            delta: delta.used_at(1.0),
            source_size_bytes: delta.size_bytes,
            concepts: concepts.iter().map(|concept| concept.concept_id).collect(),
            keep,
            make_current: new.make_current,
        };
        let id = self.enqueue(&mut tx, task).await?;
        tx.commit().await?;
        self.job(caller, id).await
    }
}
