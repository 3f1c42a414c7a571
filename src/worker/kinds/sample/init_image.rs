//! The image that a sample starts from: from the store to latents.

use image::RgbImage;

use crate::domain::sample::SampleTask;
use crate::engine::{InitImage, cover, encode_init};
use crate::storage::StorageKey;
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// Reads it and brings it to the size of the sample's images.
pub(super) async fn read_picture(
    job: &Job,
    task: &SampleTask,
) -> Result<Option<RgbImage>, JobError> {
    let Some(init) = &task.init else { return Ok(None) };
    let file = job.read_checked(&init.storage_key, Some(&init.sha256)).await?;
    let image = decode(&init.storage_key, &file)?;
    Ok(Some(cover(&image, task.settings.width as u32, task.settings.height as u32)))
}

/// Reads and encodes it, once for all images of the task.
pub(super) async fn read_init(job: &Job, task: &SampleTask) -> Result<Option<InitImage>, JobError> {
    let Some(init) = &task.init else { return Ok(None) };
    let file = job.read_checked(&init.storage_key, Some(&init.sha256)).await?;
    let image = decode(&init.storage_key, &file)?;
    let (width, height, noise_strength) =
        (task.settings.width, task.settings.height, init.noise_strength);
    let encode = job
        .context
        .device
        .run_quick(move |engine| encode_init(&engine.base, &image, width, height));
    Ok(Some(InitImage { latents: encode.await??, noise_strength, mask: None }))
}

fn decode(key: &StorageKey, file: &[u8]) -> Result<RgbImage, JobError> {
    let image = image::load_from_memory(file)
        .map_err(|error| JobError::DamagedObject { key: key.clone(), source: error.into() })?;
    Ok(image.to_rgb8())
}
