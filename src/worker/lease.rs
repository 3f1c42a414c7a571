//! A worker's lease on a job. Everything that the worker writes about the job carries the lease's fence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use image::RgbImage;
use sqlx::PgPool;
use tokio::sync::Mutex;

use super::progress::{News, Progress};
use crate::db;
use crate::domain::id::{JobId, ProjectId};
use crate::domain::job::{LeasedJob, Preview};
use crate::image_file;

/// A job that this worker holds as long as it renews the lease.
#[derive(Clone)]
pub(crate) struct Lease {
    pub(crate) job_id: JobId,
    pub(crate) project_id: ProjectId,
    /// The number of this lease. What an earlier holder still writes has a smaller number and is ignored.
    pub(crate) fence: i64,
    pub(crate) attempts: i32,
    /// Attempts in a row that got no further, with this one.
    pub(crate) barren_attempts: i32,
    pub(crate) progress: Progress,
    db: PgPool,
    duration: Duration,
    /// Held while changes are written, so that they are written in order. Whether the time of the first step has been.
    writing: Arc<Mutex<bool>>,
}

impl Lease {
    pub(crate) fn new(db: PgPool, leased: &LeasedJob, duration: Duration) -> Self {
        Self {
            job_id: leased.job_id,
            project_id: leased.project_id,
            fence: leased.fence,
            attempts: leased.attempts,
            barren_attempts: leased.barren_attempts,
            progress: Progress::new(leased.job_id),
            db,
            duration,
            writing: Arc::default(),
        }
    }

    /// Writes what has changed and renews the lease. Returns whether the job should stop, or `None` if another worker
    /// has it.
    pub(crate) async fn report(&self) -> sqlx::Result<Option<bool>> {
        let mut has_first_step = self.writing.lock().await;
        let (db, job_id, fence) = (&self.db, self.job_id, self.fence);
        let taken = self.progress.take_news();
        let News { phase, progress, metrics, previews, has_changed, .. } = &taken.news;
        if !metrics.is_empty() {
            db::metric::record(db, job_id, fence, metrics).await?;
        }
        if let Some(ago) = self.progress.since_first_step().filter(|_| !*has_first_step) {
            db::job::note_first_step(db, job_id, fence, ago).await?;
            *has_first_step = true;
        }
        // Written before the progress that announces them.
        let written = self.write_previews(previews.clone()).await?;
        let mut progress = progress.clone();
        if let Some(progress) = &mut progress {
            progress.previews = self.progress.note_written(written.into_iter());
        }
        let renewed = match phase {
            Some(phase) if *has_changed => {
                db::job::report(db, job_id, fence, *phase, progress.as_ref(), self.duration).await?
            }
            Some(_) | None => db::job::renew_lease(db, job_id, fence, self.duration).await?,
        };
        taken.written();
        Ok(renewed)
    }

    /// Returns index and step of each.
    async fn write_previews(
        &self,
        previews: BTreeMap<usize, (usize, Arc<RgbImage>)>,
    ) -> sqlx::Result<Vec<(usize, usize)>> {
        if previews.is_empty() {
            return Ok(Vec::new());
        }
        let previews = tokio::task::spawn_blocking(|| encoded(previews)).await;
        let previews = previews.map_err(|panic| sqlx::Error::Io(std::io::Error::other(panic)))?;
        db::preview::record(&self.db, self.job_id, self.fence, &previews).await?;
        Ok(previews.iter().map(|one| (one.index as usize, one.step as usize)).collect())
    }
}

/// Previews as PNGs; one that cannot be encoded is left out.
fn encoded(previews: BTreeMap<usize, (usize, Arc<RgbImage>)>) -> Vec<Preview> {
    let encode = |(index, (step, preview)): (usize, (usize, Arc<RgbImage>))| {
        let png = image_file::encode_plain(&preview).ok()?;
        Some(Preview { index: index as i32, step: step as i32, png })
    };
    previews.into_iter().filter_map(encode).collect()
}
