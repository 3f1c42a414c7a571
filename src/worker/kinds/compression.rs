//! Compressions: from a delta to a smaller one.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::compression::{CompressionReport, CompressionTask};
use crate::domain::delta::Delta as StoredDelta;
use crate::domain::job::Phase;
use crate::domain::promotion::Promote;
use crate::engine::{EngineError, compress};
use crate::worker::delta_writer::{self, Product};
use crate::worker::error::JobError;
use crate::worker::job::{Admission, Job, Kind};
use crate::worker::permits::Permits;

pub(crate) struct Compression;

impl Kind for Compression {
    type Task = CompressionTask;
    const ADMISSION: Admission = Admission::Exclusive;

    /// Compresses the delta and records the result, with a report of what was kept.
    async fn run(job: &Job, task: CompressionTask, _: Permits) -> Result<(), JobError> {
        let context = &job.context;
        let delta = match delta_writer::recorded_patiently(job).await? {
            Some(delta) => delta,
            None => decompose(job, task).await?,
        };
        delta_writer::prepare_for_merges(context, &delta).await;
        job.succeed().await
    }
}

/// From a delta to a smaller one that is stored and recorded.
async fn decompose(job: &Job, task: CompressionTask) -> Result<StoredDelta, JobError> {
    let Job { context, progress, .. } = job;
    progress.enter(Phase::Fetching);
    let read = || async { Ok(context.deltas.delta(&task.delta).await?) };
    let delta = job.patiently("reading the delta", read).await?;
    let checked = delta.clone();
    let base =
        context.device.run_quick(move |engine| checked.base_matrices(&engine.base)).await??;

    progress.enter(Phase::Compressing);
    let observer = progress.clone();
    let (keep, total) = (task.keep, delta.weights.names().len());
    // It needs no device, so it does not keep the device from its other work.
    let compressed = tokio::task::spawn_blocking(move || {
        let done = AtomicUsize::new(0);
        let observe = || {
            let step = done.fetch_add(1, Ordering::Relaxed);
            observer.step(Phase::Compressing, step, total, None)
        };
        let (compressed, report) = compress(&delta, &base, keep, &observe)?;
        Ok::<_, EngineError>((compressed.to_safetensors()?, report))
    });
    let (file, report) = compressed.await.map_err(|_| JobError::EnginePanicked)??;
    let (source_size_bytes, size_bytes) = (task.source_size_bytes, file.len() as i64);
    let report = CompressionReport { source_size_bytes, size_bytes, ..report };

    progress.enter(Phase::Storing);
    progress.check()?;
    let product = Product {
        file: file.into(),
        base_digest: &task.base_digest,
        concepts: &task.concepts,
        current_of: &task.concepts,
        promote: if task.make_current { Promote::Always } else { Promote::Never },
        report: Some(&report),
    };
    delta_writer::store(job, product).await
}
