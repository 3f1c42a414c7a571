//! Merges: from the packs of deltas to one that holds all their concepts.

use crate::db;
use crate::domain::delta::Delta;
use crate::domain::job::Phase;
use crate::domain::merge::{MergeRecipe, MergeReport, MergeTask};
use crate::domain::promotion::Promote;
use crate::engine::PackUse;
use crate::engine::RegularizationStatistics;
use crate::worker::delta_writer::{self, Product};
use crate::worker::engine::Engine;
use crate::worker::error::JobError;
use crate::worker::job::{Admission, Job, Kind};
use crate::worker::permits::Permits;

pub(crate) struct Merge;

impl Kind for Merge {
    type Task = MergeTask;
    const ADMISSION: Admission = Admission::Exclusive;

    /// Merges the deltas and records the result, with a report of how well it went.
    async fn run(job: &Job, task: MergeTask, _: Permits) -> Result<(), JobError> {
        let context = &job.context;
        let delta = match delta_writer::recorded_patiently(job).await? {
            Some(delta) => delta,
            None => solve(job, task).await?,
        };
        delta_writer::prepare_for_merges(context, &delta).await;
        job.succeed().await
    }
}

/// From deltas to one that is stored and recorded, with the report of how well that went.
async fn solve(job: &Job, task: MergeTask) -> Result<Delta, JobError> {
    let Job { context, lease, progress } = job;
    progress.enter(Phase::Fetching);
    let read = || async { context.packs(&task.deltas).await };
    let packs = job.patiently("reading the packs", read).await?;

    progress.enter(Phase::Merging);
    let recipe = task.recipe;
    let read = || async { context.statistics(recipe.captions.as_deref()).await };
    let statistics = job.patiently("reading the statistics", read).await?;
    let merge = move |engine: &Engine| merge(engine, &statistics, &packs, &recipe);
    let (file, report) = context.device.run_quick(merge).await??;
    progress.enter(Phase::Storing);
    progress.check()?;

    let (db, job_id, fence) = (&context.db, lease.job_id, lease.fence);
    let record = || async { Ok(db::job::record_merge_report(db, job_id, fence, &report).await?) };
    job.patiently("recording the merge's report", record).await?;
    let product = Product {
        file: file.into(),
        base_digest: &task.base_digest,
        concepts: &task.concepts,
        current_of: &[],
        promote: Promote::Never,
        report: None::<&MergeReport>,
    };
    delta_writer::store(job, product).await
}

/// Solves for the deltas, and says how well that goes.
fn merge(
    engine: &Engine,
    statistics: &RegularizationStatistics,
    packs: &[PackUse],
    recipe: &MergeRecipe,
) -> crate::engine::Result<(Vec<u8>, MergeReport)> {
    let merge = crate::engine::Merge::new(statistics, packs, recipe)?;
    let report = merge.report(statistics, recipe)?;
    let delta = merge.to_delta(&engine.base, recipe)?;
    Ok((delta.to_safetensors()?, report))
}
