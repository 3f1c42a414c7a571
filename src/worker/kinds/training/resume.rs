//! From where a training goes on: its newest checkpoint that is whole and fits.

use crate::db;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::digest::Digest;
use crate::engine::{TrainerState, VERSION};
use crate::worker::checkpoints::delete;
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// Points of the loss curve that the smoothed loss still depends on.
const SMOOTHED_OVER: i32 = 500;

/// Finds the state to go on from, `None` for the beginning, and records the choice. From then on the loss curve ends there.
///
/// Checkpoints of other settings or of another engine are not used, since the result would be another one.
///
/// # Errors
/// [`JobError`]; a store that does not answer is no reason to start over.
pub(super) async fn find(
    job: &Job,
    input_digest: &Digest,
) -> Result<Option<TrainerState>, JobError> {
    let (db, job_id, fence) = (&job.context.db, job.lease.job_id, job.lease.fence);
    let list = || async { Ok(db::checkpoint::of_job(db, job_id).await?) };
    let checkpoints = job.patiently("looking for checkpoints", list).await?;
    let mut found = None;
    let mut unusable = Vec::new();
    for checkpoint in &checkpoints {
        match open(job, input_digest, checkpoint).await? {
            Ok(state) => {
                found = Some(state);
                break;
            }
            Err(reason) => {
                let step = checkpoint.step;
                tracing::warn!(step, reason, "a checkpoint cannot be used");
                unusable.push(format!("the one of step {step} {reason}"));
            }
        }
    }
    let started_over = (found.is_none() && !unusable.is_empty())
        .then(|| format!("none of its checkpoints can be used: {}", unusable.join("; ")));

    let from = found.as_ref().map(|state| i32::try_from(state.step).unwrap_or(i32::MAX));
    let note = || async {
        let noted =
            db::checkpoint::note_resumption(db, job_id, fence, from, started_over.as_deref()).await;
        noted?.ok_or(JobError::LeaseLost)
    };
    for key in job.patiently("noting where it goes on", note).await? {
        delete(&job.context, &key).await;
    }
    match (from, &started_over) {
        (Some(step), _) => continue_curve(job, step).await?,
        (None, Some(reason)) => tracing::warn!(reason, "starts over"),
        (None, None) => {}
    }
    Ok(found)
}

/// Reads a checkpoint; the inner error says why it cannot be used.
async fn open(
    job: &Job,
    input_digest: &Digest,
    checkpoint: &Checkpoint,
) -> Result<Result<TrainerState, String>, JobError> {
    if checkpoint.engine_version != VERSION {
        let version = &checkpoint.engine_version;
        return Ok(Err(format!("is of engine {version}, and this worker has {VERSION}")));
    }
    if checkpoint.input_digest != *input_digest {
        return Ok(Err("is of other settings or images".to_owned()));
    }
    let key = &checkpoint.storage_key;
    let read = || async { Ok(job.context.storage.read_if_there(key).await?) };
    let Some(file) = job.patiently("reading a checkpoint", read).await? else {
        return Ok(Err("has lost its object".to_owned()));
    };
    let expected = checkpoint.clone();
    let parse = move || {
        let actual = Digest::of(&file);
        if actual != expected.sha256 {
            let expected = &expected.sha256;
            return Err(format!("is damaged: its SHA-256 is {actual:.12}, not {expected:.12}"));
        }
        TrainerState::from_safetensors(&file).map_err(|error| format!("is damaged: {error}"))
    };
    Ok(tokio::task::spawn_blocking(parse).await.unwrap_or_else(|_| Err("is damaged".to_owned())))
}

/// Lets the progress go on where it was at `step`.
async fn continue_curve(job: &Job, step: i32) -> Result<(), JobError> {
    let (db, job_id) = (&job.context.db, job.lease.job_id);
    let after = (step - SMOOTHED_OVER).max(0);
    let limit = i64::from(SMOOTHED_OVER);
    let read = || async { Ok(db::metric::after(db, job_id, after, limit).await?) };
    let curve = job.patiently("reading the loss curve", read).await?;
    job.progress.resume_from(curve.into_iter().map(|point| point.loss));
    tracing::info!(step, "goes on from a checkpoint");
    Ok(())
}
