//! Merges: several deltas become one.

pub mod check;
mod warnings;

use sqlx::PgConnection;

use super::binding::{Binding, bind};
use super::job::Merge;
use super::queue::JobOptions;
use super::{App, Caller, Refusal};
use crate::domain::code::Code;
use crate::domain::delta_use::ConceptUse;
use crate::domain::invalid::FieldError;
use crate::domain::job::JobKind;
use crate::domain::merge::options::MergeOptions;
use crate::domain::merge::{MergeRecipe, MergeTask};
use crate::domain::version::TaskVersion;

/// A merge to start or to check.
#[derive(Clone, Debug)]
pub struct NewMerge {
    /// What to merge: at least two different deltas.
    pub concepts: Vec<ConceptUse>,
    pub options: MergeOptions,
}

/// A merge that is asked for, its names resolved and its defaults filled in.
struct BoundMerge {
    binding: Binding,
    recipe: MergeRecipe,
}

impl App {
    /// Queues a merge.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if a name does not resolve, [`Refusal::QueueFull`].
    pub async fn start_merge(
        &self,
        caller: &Caller,
        new: NewMerge,
        options: JobOptions,
    ) -> Result<Merge, Refusal> {
        options.schedule.check()?;
        let mut tx = self.db.begin().await?;
        let BoundMerge { binding, recipe } = self.bind_merge(&mut tx, caller, new).await?;
        let task = MergeTask {
            version: TaskVersion::NEWEST,
            base_digest: self.model.digest.clone(),
            deltas: binding.deltas,
            concepts: binding.concepts.iter().map(|concept| concept.concept_id).collect(),
            recipe,
        };
        let id = self.enqueue(&mut tx, caller, task, &options).await?;
        tx.commit().await?;
        self.announce(JobKind::Merge);
        self.job(caller, id).await
    }

    async fn bind_merge(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        new: NewMerge,
    ) -> Result<BoundMerge, Refusal> {
        let recipe = new.options.recipe(&self.model, "")?;
        let binding = bind(db, caller.project_id(), &self.model, &new.concepts, &[]).await?;
        if binding.deltas.len() < 2 {
            let detail = "a merge needs at least two different deltas";
            return Err(FieldError::new("/concepts", Code::TooFewDeltas, detail).into());
        }
        Ok(BoundMerge { binding, recipe })
    }
}
