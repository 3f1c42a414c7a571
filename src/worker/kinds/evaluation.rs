//! Evaluations: from the images of finished samples to figures, with a contact sheet.

mod features;
mod images;
mod sheet;

use self::features::Scorer;
use self::images::{load_held_out, load_photos, load_subjects};
use crate::db;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::evaluation::report::EvaluationReport;
use crate::domain::job::Phase;
use crate::evaluator::Evaluator;
use crate::image_file;
use crate::scoring;
use crate::storage::StorageKey;
use crate::worker::error::JobError;
use crate::worker::job::{Admission, Job, Kind};
use crate::worker::permits::Permits;

pub(crate) struct Evaluation;

impl Kind for Evaluation {
    type Task = EvaluationTask;
    const ADMISSION: Admission = Admission::Exclusive;

    /// Scores the images, all of which are there by now, and records the report and its sheet.
    async fn run(job: &Job, task: EvaluationTask, _: Permits) -> Result<(), JobError> {
        let Job { lease, progress, .. } = job;
        progress.enter(Phase::Fetching);
        let load = || async { load_subjects(job, &task).await };
        let subjects = job.patiently("finding the images", load).await?;
        let evaluator = evaluator_of(job, &task)?;
        let mut scorer = Scorer::new(job, evaluator, task.image_count());
        let photos = load_photos(&mut scorer, &task).await?;
        let mut scores = scorer.scores(&task, photos.features, &subjects).await?;
        scores.held_out = load_held_out(&mut scorer, &task).await?;
        progress.check()?;

        let thumbnails = scorer.into_thumbnails();
        let finish = tokio::task::spawn_blocking(move || {
            let report = scoring::report(&task, &scores);
            let sheet = sheet::draw(&task, &report, photos.thumbnails, thumbnails);
            (report, sheet)
        });
        let (report, sheet) = finish.await.map_err(|panic| JobError::Encoding(panic.into()))?;
        progress.enter(Phase::Storing);
        let png =
            image_file::encode_plain(&sheet?).map_err(|error| JobError::Encoding(error.into()))?;
        let key = StorageKey::sheet(lease.job_id, lease.fence);
        job.write(&key, png).await?;
        job.patiently("recording the report", || async { record(job, &report, &key).await }).await
    }
}

/// Records the report and ends the job, all at once.
async fn record(job: &Job, report: &EvaluationReport, sheet: &StorageKey) -> Result<(), JobError> {
    let Job { context, lease, .. } = job;
    let mut tx = context.db.begin().await?;
    if !db::job::succeed(&mut *tx, lease.job_id, lease.fence).await? {
        drop(tx);
        return job.expect_success().await;
    }
    db::report::record(&mut *tx, lease.job_id, report, Some(sheet)).await?;
    tx.commit().await?;
    Ok(())
}

/// The worker's own evaluator, if it is the one that the task wants; the queue offers no others.
fn evaluator_of(job: &Job, task: &EvaluationTask) -> Result<Evaluator, JobError> {
    let own = job.context.evaluator.clone();
    own.filter(|own| own.info().digest == task.evaluator_digest)
        .ok_or_else(|| JobError::EvaluatorMismatch { wanted: task.evaluator_digest.clone() })
}
