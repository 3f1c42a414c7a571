//! Merges: several deltas become one.

pub mod check;
mod forecast;

use sqlx::PgConnection;

use super::binding::{Binding, bind};
use super::dry_run::DryRun;
use super::job::Merge;
use super::queue::{Asked, JobOptions};
use super::{App, Caller, Refusal, warnings};
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
        let asked = self.resolve_merge(&mut tx, caller, new).await?;
        let id = self.enqueue(&mut tx, caller, asked, &options).await?;
        tx.commit().await?;
        self.announce(JobKind::Merge);
        self.queued_job(caller, id).await
    }

    /// Answers what [`Self::start_merge`] would queue.
    ///
    /// # Errors
    /// The same, without [`Refusal::QueueFull`].
    pub async fn try_merge(
        &self,
        caller: &Caller,
        new: NewMerge,
        options: JobOptions,
    ) -> Result<DryRun<MergeTask>, Refusal> {
        options.schedule.check()?;
        let mut db = self.db.acquire().await?;
        let asked = self.resolve_merge(&mut db, caller, new).await?;
        self.dry_run(&mut db, asked, options.schedule).await
    }

    async fn resolve_merge(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        new: NewMerge,
    ) -> Result<Asked<MergeTask>, Refusal> {
        let mut warnings = warnings::of_uses(&new.concepts);
        let captions = new.options.captions.as_deref().unwrap_or_default();
        warnings.extend(warnings::of_repeated(captions, "/captions"));
        let BoundMerge { binding, recipe } = self.bind_merge(db, caller, new).await?;
        warnings.extend(self.forecast_of_merge(&binding.deltas, &recipe, "/concepts").await);
        let task = MergeTask {
            version: TaskVersion::NEWEST,
            base_digest: self.model.digest.clone(),
            deltas: binding.deltas,
            concepts: binding.concepts.iter().map(|concept| concept.concept_id).collect(),
            recipe,
        };
        Ok(Asked { task, warnings })
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
