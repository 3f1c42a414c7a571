//! The image that a sample starts from: from the store to latents.

use image::RgbImage;

use crate::domain::sample::{InitImage as StoredInit, SampleTask};
use crate::engine::{InitImage, cover, encode_init};
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// Reads it and brings it to the size of the sample's images.
pub(super) async fn read_picture(
    job: &Job,
    task: &SampleTask,
) -> Result<Option<RgbImage>, JobError> {
    match &task.init {
        Some(init) => Ok(Some(read(job, task, init).await?)),
        None => Ok(None),
    }
}

/// Reads and encodes it, once for all images of the task.
pub(super) async fn read_init(job: &Job, task: &SampleTask) -> Result<Option<InitImage>, JobError> {
    let Some(init) = &task.init else { return Ok(None) };
    let image = read(job, task, init).await?;
    let (width, height) = (task.settings.width, task.settings.height);
    let device = &job.context.device;
    let encode = device.run_quick(move |engine| encode_init(&engine.base, &image, width, height));
    let noise_strength = init.noise_strength;
    Ok(Some(InitImage { latents: encode.await??, noise_strength, mask: None }))
}

/// Decodes it on a thread of its own, and keeps no more of it than the sample's size: it waits for the device, and the
/// images of many samples do.
async fn read(job: &Job, task: &SampleTask, init: &StoredInit) -> Result<RgbImage, JobError> {
    let permit = job.context.decoders.acquire().await;
    let permit = permit.map_err(|closed| JobError::Encoding(closed.into()))?;
    let file = job.read_checked(&init.storage_key, Some(&init.sha256)).await?;
    let (width, height) = (task.settings.width as u32, task.settings.height as u32);
    let covered = tokio::task::spawn_blocking(move || {
        let image = image::load_from_memory(&file)?.into_rgb8();
        Ok::<_, image::ImageError>(cover(&image, width, height))
    });
    let covered = covered.await.map_err(|panic| JobError::Encoding(panic.into()))?;
    drop(permit);
    covered.map_err(|error| JobError::DamagedObject {
        key: init.storage_key.clone(),
        source: error.into(),
    })
}
