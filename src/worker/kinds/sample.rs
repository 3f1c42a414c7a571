//! Samples: from a prompt to images in the store.

mod init_image;
mod manifest;

use chrono::Utc;
use image::RgbImage;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::init_image::read_init;
use self::manifest::manifest_of;
use crate::db;
use crate::domain::digest::Digest;
use crate::domain::id::{ImageId, SampleId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::job::Phase;
use crate::domain::manifest::Manifest;
use crate::domain::sample::SampleTask;
use crate::engine::ConceptUse;
use crate::engine::{InitImage, SampleRequest};
use crate::image_file;
use crate::storage::StorageKey;
use crate::worker::batch::{GenerationRequest, Part};
use crate::worker::concepts::{SampleConcepts, SampleDeltas};
use crate::worker::error::JobError;
use crate::worker::job::{Admission, Job, Kind};
use crate::worker::permits::Permits;

pub(crate) struct Sample;

impl Kind for Sample {
    type Task = SampleTask;
    const ADMISSION: Admission = Admission::ByPermits;

    /// Generates the images in the running batch, stores each when it is finished, and records them all.
    #[tracing::instrument(skip_all, fields(job.id = %job.lease.job_id))]
    async fn run(job: &Job, task: SampleTask, permits: Permits) -> Result<(), JobError> {
        let Job { context, lease, progress } = job;
        let concepts = SampleConcepts::new(&task.deltas, read_deltas(job, &task).await?);
        let init = read_init(job, &task).await?;
        let (sender, generated) = mpsc::unbounded_channel();
        context.device.generate(GenerationRequest {
            progress: progress.clone(),
            concepts: concepts.clone(),
            requests: requests(&task, init),
            preview_every: task.settings.preview_every,
            part: Part { phase: Phase::Denoising, before: 0, of: task.settings.n },
            images: sender,
        });
        // Described while the images are generated, so that no first step waits for it.
        let manifest = manifest_of(job, &task, concepts).await?;
        let images = store_images(job, &task, &manifest, generated, permits).await?;
        progress.check()?;

        let mut tx = context.db.begin().await?;
        if let Some(first_step_at) = progress.first_step_at() {
            db::job::note_first_step(&mut *tx, lease.job_id, lease.fence, first_step_at).await?;
        }
        if !db::job::succeed(&mut *tx, lease.job_id, lease.fence).await? {
            return Err(JobError::LeaseLost);
        }
        for image in &images {
            db::image::record(&mut *tx, image).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Reads what the task names: one delta as it is, or the packs of several, which are merged for this sample.
async fn read_deltas(job: &Job, task: &SampleTask) -> Result<SampleDeltas, JobError> {
    let context = &job.context;
    match task.deltas.as_slice() {
        [] => Ok(SampleDeltas::Whole(None)),
        [used] => {
            let delta = context.deltas.delta(used).await?;
            Ok(SampleDeltas::Whole(Some(ConceptUse { delta, strength: used.strength })))
        }
        several => Ok(SampleDeltas::Merged {
            packs: context.packs(several).await?,
            statistics: context.statistics(task.merge.captions.as_deref()).await?,
            recipe: task.merge.clone(),
        }),
    }
}

/// One request per image.
fn requests(task: &SampleTask, init: Option<InitImage>) -> Vec<SampleRequest> {
    let settings = &task.settings;
    let request = |index| SampleRequest {
        prompt: task.prompt.clone(),
        negative_prompt: task.negative_prompt.clone(),
        concepts: Vec::new(), // their keys and values come from the conditioner
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

/// Writes the images as they are finished, without blocking the device thread, and releases the permits of each.
async fn store_images(
    job: &Job,
    task: &SampleTask,
    manifest: &Manifest,
    mut generated: mpsc::UnboundedReceiver<Result<(usize, RgbImage), JobError>>,
    mut permits: Permits,
) -> Result<Vec<Image>, JobError> {
    let cost = task.settings.elements_per_image(job.context.model.native_size);
    let mut storing = JoinSet::new();
    for _ in 0..task.settings.n {
        // If nothing was sent, the device thread is gone.
        let (index, image) = generated.recv().await.ok_or(JobError::EnginePanicked)??;
        permits.release(cost);
        let image_index = task.settings.first_index + index;
        let manifest = Manifest { image_index, ..manifest.clone() };
        storing.spawn(store(job.clone(), image, manifest));
    }
    drop(permits);
    job.progress.enter(Phase::Storing);
    let mut images = Vec::new();
    while let Some(stored) = storing.join_next().await {
        images.push(stored.unwrap_or_else(|panic| Err(JobError::Encoding(panic.into())))?);
    }
    Ok(images)
}

/// Encodes and writes one image.
async fn store(job: Job, image: RgbImage, manifest: Manifest) -> Result<Image, JobError> {
    let index = manifest.image_index;
    let (width, height) = image.dimensions();
    let encoded = tokio::task::spawn_blocking(move || {
        let png = image_file::encode(&image, &manifest)?;
        let sha256 = Digest::of(&png);
        Ok((png, sha256))
    });
    let (png, sha256) =
        encoded.await.unwrap_or_else(|panic| Err(Box::from(panic))).map_err(JobError::Encoding)?;
    let job_id = job.lease.job_id;
    let key = StorageKey::sample(job_id, job.lease.fence, index);
    let image = Image {
        image_id: ImageId::generate(),
        source: ImageSource::Sample { sample_id: SampleId::from(job_id), index: index as i32 },
        width: width as i32,
        height: height as i32,
        size_bytes: png.len() as i64,
        sha256,
        storage_key: key.clone(),
        created_at: Utc::now(),
    };
    job.context.storage.write(&key, png).await?;
    Ok(image)
}
