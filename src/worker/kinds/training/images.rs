//! The images of a training: photos of its concepts and class images, from the store.

use std::io;
use std::sync::Arc;

use image::RgbImage;
use image::imageops::FilterType;

use crate::class_images::ClassImageSet;
use crate::domain::digest::Digest;
use crate::domain::training::{ClassImages, ImageSetRef, TaskConcept, TrainingTask};
use crate::engine::TrainingConcept;
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// Reads the photos of each concept, and the class images that go with it.
pub(super) async fn read_concepts(
    job: &Job,
    task: &TrainingTask,
) -> Result<Vec<TrainingConcept>, JobError> {
    let class_images = match task.class_images {
        ClassImages::None => None,
        ClassImages::Auto => Some(read_class_images(job, task.class_image_set.as_ref()).await?),
    };
    let mut concepts = Vec::new();
    for concept in &task.concepts {
        concepts.push(read_concept(job, concept, class_images.as_deref()).await?);
    }
    Ok(concepts)
}

/// The set that the task names, or, for a task from before there were sets, the worker's own.
async fn read_class_images(
    job: &Job,
    reference: Option<&ImageSetRef>,
) -> Result<Arc<ClassImageSet>, JobError> {
    let Some(reference) = reference else { return Ok(job.context.class_images.clone()) };
    let bytes = job.context.storage.read(&reference.storage_key).await?;
    let (key, digest) = (reference.storage_key.clone(), reference.digest.clone());
    let damaged = |source| JobError::DamagedObject { key, source };
    let read = tokio::task::spawn_blocking(move || {
        let actual = Digest::of(&bytes);
        if actual != digest {
            let text = format!("its bytes have the SHA-256 {actual:.12} instead of {digest:.12}");
            return Err(io::Error::other(text));
        }
        ClassImageSet::from_zip(&bytes)
    });
    let set = read.await.map_err(io::Error::other).and_then(|set| set);
    Ok(Arc::new(set.map_err(|error| damaged(error.into()))?))
}

async fn read_concept(
    job: &Job,
    concept: &TaskConcept,
    class_images: Option<&ClassImageSet>,
) -> Result<TrainingConcept, JobError> {
    let class_images = match class_images {
        None => Vec::new(),
        Some(set) => {
            let chosen = set.choose(&concept.words.class_noun);
            let read = tokio::task::spawn_blocking(move || chosen.read()).await;
            read.map_err(io::Error::other)
                .and_then(|images| images)
                .map_err(JobError::ClassImages)?
        }
    };
    Ok(TrainingConcept {
        words: concept.words.clone(),
        images: read_photos(job, concept).await?,
        class_images,
    })
}

async fn read_photos(job: &Job, concept: &TaskConcept) -> Result<Vec<RgbImage>, JobError> {
    // Training resizes every photo to about the model's size: what goes far beyond it would only take memory.
    let max_side = (4 * job.context.model.native_size).max(1024) as u32;
    let mut images: Vec<RgbImage> = Vec::new();
    for image in &concept.images {
        let bytes = job.context.storage.read(&image.storage_key).await?;
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
