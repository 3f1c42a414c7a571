//! The images of a training: photos of its concepts and class images, from the store.

use image::imageops::FilterType;
use image::{GrayImage, RgbImage};

use super::class_images;
use crate::domain::storage_key::StorageKey;
use crate::domain::training::task::{TaskConcept, TrainingTask};
use crate::engine::{Guide, TrainingConcept};
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// Reads the photos of each concept, and the class images that go with it.
pub(super) async fn read_concepts(
    job: &Job,
    task: &TrainingTask,
) -> Result<Vec<TrainingConcept>, JobError> {
    let class_images = class_images::read(job, task).await?;
    let mut concepts = Vec::new();
    let photos = task.concepts.iter().map(|concept| concept.images.len()).sum();
    let max_side = max_side(photos, job.context.model.native_size);
    for (concept, class_images) in task.concepts.iter().zip(class_images) {
        let (images, guides) = read_photos(job, concept, max_side).await?;
        let words = concept.words.clone();
        concepts.push(TrainingConcept { words, images, guides, class_images });
    }
    Ok(concepts)
}

/// Memory for the decoded photos of a training, as long as they need not become smaller than training takes them.
const PHOTO_BYTES: usize = 2 << 30;

/// The longest side of photos as they are kept. Training resizes every photo to about the model's size, at most 1.4 times
/// that: what goes far beyond it would only take memory.
///
/// It depends on the task and the model alone, so that every worker trains the same delta.
fn max_side(photos: usize, native_size: usize) -> u32 {
    let needed = native_size * 3 / 2;
    let affordable = (PHOTO_BYTES / (3 * photos.max(1))).isqrt();
    (4 * native_size).max(1024).min(affordable.max(needed)) as u32
}

async fn read_photos(
    job: &Job,
    concept: &TaskConcept,
    max_side: u32,
) -> Result<(Vec<RgbImage>, Vec<Guide>), JobError> {
    let (mut images, mut guides) = (Vec::new(), Vec::new());
    for image in &concept.images {
        let bytes = job.read_checked(&image.storage_key, image.sha256.as_ref()).await?;
        let photo = on_a_thread(&image.storage_key, move || decode(&bytes, max_side)).await?;
        let mask = match &image.mask {
            Some(mask) => {
                let bytes = job.read_checked(&mask.storage_key, Some(&mask.sha256)).await?;
                let (width, height) = photo.dimensions();
                let read = move || decode_mask(&bytes, width, height);
                Some(on_a_thread(&mask.storage_key, read).await?)
            }
            None => None,
        };
        images.push(photo);
        guides.push(Guide { caption: image.caption.clone(), mask });
        job.progress.check()?;
    }
    Ok((images, guides))
}

/// Decodes an object.
async fn on_a_thread<T: Send + 'static>(
    key: &StorageKey,
    decode: impl FnOnce() -> image::ImageResult<T> + Send + 'static,
) -> Result<T, JobError> {
    let decoded = tokio::task::spawn_blocking(decode).await;
    let decoded = decoded.map_err(image_error).and_then(|image| image.map_err(image_error));
    decoded.map_err(|source| JobError::DamagedObject { key: key.clone(), source })
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

/// A mask at the size of its photo.
fn decode_mask(png: &[u8], width: u32, height: u32) -> image::ImageResult<GrayImage> {
    let mask = image::load_from_memory(png)?.into_luma8();
    if mask.dimensions() == (width, height) {
        return Ok(mask);
    }
    Ok(image::imageops::resize(&mask, width, height, FilterType::Triangle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_of_any_training_fit_into_memory() {
        // An ordinary training keeps its photos as they always were.
        assert_eq!(max_side(100, 512), 2048);
        assert_eq!(max_side(5, 64), 1024);

        // Eight concepts of a hundred photos each.
        let side = max_side(800, 512);
        assert!(side >= 768, "{side}: training crops 1.4 times the model's size");
        assert!(800 * 3 * (side as usize).pow(2) <= PHOTO_BYTES, "{side}");
    }
}
