//! The images of a training: photos of its concepts and class images, from the store.

use image::RgbImage;
use image::imageops::FilterType;

use super::class_images;
use crate::domain::training::{TaskConcept, TrainingTask};
use crate::engine::TrainingConcept;
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// Reads the photos of each concept, and the class images that go with it.
pub(super) async fn read_concepts(
    job: &Job,
    task: &TrainingTask,
) -> Result<Vec<TrainingConcept>, JobError> {
    let class_images = class_images::read(job, task).await?;
    let mut concepts = Vec::new();
    for (concept, class_images) in task.concepts.iter().zip(class_images) {
        let images = read_photos(job, concept).await?;
        concepts.push(TrainingConcept { words: concept.words.clone(), images, class_images });
    }
    Ok(concepts)
}

async fn read_photos(job: &Job, concept: &TaskConcept) -> Result<Vec<RgbImage>, JobError> {
    // Training resizes every photo to about the model's size: what goes far beyond it would only take memory.
    let max_side = (4 * job.context.model.native_size).max(1024) as u32;
    let mut images: Vec<RgbImage> = Vec::new();
    for image in &concept.images {
        let bytes = job.read_checked(&image.storage_key, image.sha256.as_ref()).await?;
        let decoded = tokio::task::spawn_blocking(move || decode(&bytes, max_side)).await;
        let decoded = decoded.map_err(image_error).and_then(|image| image.map_err(image_error));
        images.push(decoded.map_err(|source| JobError::DamagedObject {
            key: image.storage_key.clone(),
            source,
        })?);
        job.progress.check()?;
    }
    Ok(images)
}

fn image_error(
    error: impl std::error::Error + Send + Sync + 'static,
) -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(error)
}

fn decode(png: &[u8], max_side: u32) -> image::ImageResult<RgbImage> {
    let image = image::load_from_memory(png)?;
    if image.width().max(image.height()) <= max_side {
        return Ok(image.to_rgb8());
    }
    Ok(image.resize(max_side, max_side, FilterType::Lanczos3).to_rgb8())
}
