//! Merges: from the packs of deltas to one that holds all their concepts.

use crate::db;
use crate::domain::job::Phase;
use crate::domain::merge::{MergeRecipe, MergeReport, MergeTask};
use crate::engine::PackUse;
use crate::engine::RegularizationStatistics;
use crate::worker::delta_writer::PackedDelta;
use crate::worker::engine::Engine;
use crate::worker::error::JobError;
use crate::worker::job::{Admission, Job, Kind};
use crate::worker::permits::Permits;

pub(crate) struct Merge;

impl Kind for Merge {
    type Task = MergeTask;
    const ADMISSION: Admission = Admission::Exclusive;

    /// Merges the deltas and records the result, with a report of how well it went.
    #[tracing::instrument(skip_all, fields(job.id = %job.lease.job_id))]
    async fn run(job: &Job, task: MergeTask, _: Permits) -> Result<(), JobError> {
        let Job { context, lease, progress } = job;
        progress.enter(Phase::Fetching);
        let packs = context.packs(&task.deltas).await?;

        progress.enter(Phase::Merging);
        let recipe = task.recipe;
        let statistics = context.statistics(recipe.captions.as_deref()).await?;
        let merge = move |engine: &Engine| merge(engine, &statistics, &packs, &recipe);
        let (packed, report) = context.device.run_quick(merge).await??;
        progress.enter(Phase::Storing);
        progress.check()?;

        let stored = packed.store(job).await?;
        let mut tx = context.db.begin().await?;
        if !db::job::succeed(&mut *tx, lease.job_id, lease.fence).await? {
            return Err(JobError::LeaseLost);
        }
        db::job::record_merge_report(&mut *tx, lease.job_id, lease.fence, &report).await?;
        db::delta::record(&mut *tx, stored.row(&task.base_digest)).await?;
        db::delta::record_concepts(&mut *tx, stored.delta_id, &task.concepts).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Solves for the deltas, and says how well that goes.
fn merge(
    engine: &Engine,
    statistics: &RegularizationStatistics,
    packs: &[PackUse],
    recipe: &MergeRecipe,
) -> crate::engine::Result<(PackedDelta, MergeReport)> {
    let merge = crate::engine::Merge::new(statistics, packs, recipe)?;
    let report = merge.report(statistics, recipe)?;
    let delta = merge.to_delta(&engine.base, recipe)?;
    Ok((PackedDelta::new(engine, &delta)?, report))
}
