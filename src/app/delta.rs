//! Deltas: what trainings and merges have made.

use super::download::{Downloadable, Owner};
use super::{App, Caller, Refusal};
use crate::db;
use crate::delta_store::DeltaStoreError;
use crate::domain::code::Code;
use crate::domain::delta::{Delta, DeltaConcept, DeltaFormat};
use crate::domain::digest::Digest;
use crate::domain::id::DeltaId;
use crate::domain::invalid::FieldError;
use crate::domain::page::{Page, PageOf};
use crate::domain::record::ExternalId;

/// A delta and the concepts that it contains, in their order.
#[derive(Clone, Debug)]
pub struct DeltaContents {
    pub delta: Delta,
    pub concepts: Vec<DeltaConcept>,
}

/// Which deltas of a list are wanted.
#[derive(Clone, Debug, Default)]
pub struct WantedDeltas<'a> {
    /// The id or handle of a concept that they contain.
    pub concept: Option<&'a str>,
    /// The digest of their file.
    pub sha256: Option<Digest>,
    pub external_id: Option<ExternalId>,
}

impl App {
    /// Returns what is known about a delta.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none of this id.
    pub async fn delta(&self, caller: &Caller, id: DeltaId) -> Result<DeltaContents, Refusal> {
        let found = db::delta::find(&self.db, caller.project_id(), &[id]).await?;
        let delta = found.into_iter().next().ok_or_else(|| Refusal::not_found("delta", id))?;
        let concepts = db::delta::concepts_of(&self.db, &[id]).await?;
        Ok(DeltaContents { delta, concepts })
    }

    /// Lists deltas: all, or those that are wanted.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such concept.
    pub async fn deltas(
        &self,
        caller: &Caller,
        wanted: WantedDeltas<'_>,
        page: Page,
    ) -> Result<PageOf<DeltaContents>, Refusal> {
        let concept = match wanted.concept {
            Some(name) => Some(self.find_concept(caller, name).await?.concept_id),
            None => None,
        };
        let WantedDeltas { sha256, external_id, .. } = wanted;
        let filter = db::delta::DeltaFilter { concept, sha256, external_id };
        let (project_id, more) = (caller.project_id(), page.with_one_more());
        let found = db::delta::list(&self.db, project_id, &filter, more).await?;
        let found = page.cut(found);
        let ids: Vec<DeltaId> = found.items.iter().map(|delta| delta.delta_id).collect();
        let contents = db::delta::concepts_of(&self.db, &ids).await?;
        Ok(found.map(|delta| {
            let its = contents.iter().filter(|concept| concept.delta_id == delta.delta_id);
            DeltaContents { concepts: its.cloned().collect(), delta }
        }))
    }

    /// Returns a delta's weights as a safetensors file.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] if whole matrices are asked for and the delta belongs to another base model than the one
    /// served: they are computed from the base model's; [`Refusal::Overloaded`].
    pub async fn delta_file(
        &self,
        _caller: &Caller,
        delta: &Delta,
        format: DeltaFormat,
    ) -> Result<Downloadable, Refusal> {
        match format {
            DeltaFormat::Native => {
                let of = Owner::new("delta", delta.delta_id);
                Ok(self.downloadable(of, &delta.storage_key, 0, delta.size_bytes, &delta.sha256))
            }
            DeltaFormat::Dense => {
                self.check_served(delta)?;
                let permit = self.computation().await?;
                let dense = self.deltas.dense(&delta.storage_key, &delta.sha256).await;
                let dense = dense.map_err(|error| of_delta(delta.delta_id, error))?;
                let spooled = Downloadable::spooled(dense).await;
                drop(permit); // not before: whole matrices are in memory until the disk has them
                spooled
            }
        }
    }

    fn check_served(&self, delta: &Delta) -> Result<(), Refusal> {
        if delta.base_digest == self.model.digest {
            return Ok(());
        }
        let detail = format!(
            "`{}` was made for base model {:.12}, this service has {} ({:.12}): ask for the native format",
            delta.delta_id, delta.base_digest, self.model.name, self.model.digest
        );
        Err(Refusal::Conflict(FieldError::new("format", Code::BaseModelMismatch, detail)))
    }
}

/// Why there is no file of a delta.
fn of_delta(id: DeltaId, error: DeltaStoreError) -> Refusal {
    match Refusal::from(error) {
        Refusal::ObjectLost { is_damaged, source, .. } => {
            Refusal::ObjectLost { what: "delta", id: id.to_string(), is_damaged, source }
        }
        other => other,
    }
}
