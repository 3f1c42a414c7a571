//! Samples: from a prompt to pictures in the store.

use chrono::Utc;
use image::RgbImage;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::batch::Drawing;
use super::conditioner::Cast;
use super::error::JobError;
use super::init_image::read_init;
use super::job::JobContext;
use super::manifest::manifest_of;
use super::packs::Concepts;
use super::slots::Seat;
use crate::db;
use crate::domain::id::{ImageId, SampleId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::job::Phase;
use crate::domain::manifest::Manifest;
use crate::domain::sample::SampleTask;
use crate::engine::sampler::{InitImage, SampleRequest};
use crate::image_file;
use crate::storage::StorageKey;

/// Has the pictures drawn in the running batch, stores each as it comes, and records them all.
///
/// - `seat`: the job's rows of the batch
#[tracing::instrument(skip_all, fields(job.id = %job.job_id))]
pub(crate) async fn run(
    job: &JobContext,
    task: SampleTask,
    mut seat: Seat,
) -> Result<(), JobError> {
    job.check_base(&task.base_digest)?;
    let concepts = Concepts::read(&job.worker, &task.deltas).await?;
    let init = read_init(job, &task).await?;
    let (sender, mut pictures) = mpsc::unbounded_channel();
    job.worker.gpu.draw(Drawing {
        job: job.clone(),
        requests: requests(&task, init),
        cast: Cast::new(&task.deltas, concepts.clone(), task.merge.clone()),
        preview_every: task.settings.preview_every,
        pictures: sender,
    });
    // Said while the pictures are drawn, so that no first step waits for it.
    let manifest = manifest_of(job, &task, &concepts).await?;

    let mut storing = JoinSet::new();
    for _ in 0..task.settings.n {
        // Without an answer the device's thread is gone.
        let (index, picture) = pictures.recv().await.ok_or(JobError::EnginePanicked)??;
        seat.release(task.settings.rows_per_image());
        let image_index = task.settings.first_index + index;
        let manifest = Manifest { image_index, ..manifest.clone() };
        storing.spawn(store(job.clone(), picture, manifest));
    }
    drop(seat);
    job.enter(Phase::Storing);
    let mut images = Vec::new();
    while let Some(stored) = storing.join_next().await {
        images.push(stored.unwrap_or_else(|panic| Err(JobError::Encoding(panic.into())))?);
    }
    job.check()?;

    let mut tx = job.worker.db.begin().await?;
    if let Some(first_step_at) = job.first_step_at() {
        db::job::note_first_step(&mut *tx, job.job_id, job.fence, first_step_at).await?;
    }
    if !db::job::succeed(&mut *tx, job.job_id, job.fence).await? {
        return Err(JobError::LeaseLost);
    }
    for image in &images {
        db::image::record(&mut *tx, image).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// One request per picture.
fn requests(task: &SampleTask, init: Option<InitImage>) -> Vec<SampleRequest> {
    let settings = &task.settings;
    let request = |index| SampleRequest {
        prompt: task.prompt.clone(),
        negative_prompt: task.negative_prompt.clone(),
        concepts: Vec::new(), // their keys and values come with the cast
        seed: settings.seed,
        image_index: (settings.first_index + index) as u64,
        num_inference_steps: settings.num_inference_steps,
        guidance_scale: settings.guidance_scale,
        unconditional_strength: settings.unconditional_strength,
        guidance_interval: settings.guidance_interval,
        scheduler: settings.scheduler,
        eta: settings.eta,
        width: settings.width,
        height: settings.height,
        init: init.clone(),
        determinism: settings.determinism,
    };
    (0..settings.n).map(request).collect()
}

/// Encodes and writes one picture, beside the device's thread.
async fn store(job: JobContext, picture: RgbImage, manifest: Manifest) -> Result<Image, JobError> {
    let index = manifest.image_index;
    let (width, height) = picture.dimensions();
    let encoded = tokio::task::spawn_blocking(move || {
        let png = image_file::encode(&picture, &manifest)?;
        let sha256 = data_encoding::HEXLOWER.encode(&Sha256::digest(&png));
        Ok((png, sha256))
    });
    let (png, sha256) =
        encoded.await.unwrap_or_else(|panic| Err(Box::from(panic))).map_err(JobError::Encoding)?;
    let key = StorageKey::sample(job.job_id, job.fence, index);
    let image = Image {
        image_id: ImageId::generate(),
        source: ImageSource::Sample { sample_id: SampleId::from(job.job_id), index: index as i32 },
        width: width as i32,
        height: height as i32,
        size_bytes: png.len() as i64,
        sha256: sha256.into(),
        storage_key: key.clone(),
        created_at: Utc::now(),
    };
    job.worker.storage.write(&key, png).await?;
    Ok(image)
}
