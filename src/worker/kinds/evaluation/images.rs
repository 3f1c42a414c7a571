//! The images of an evaluation, from the store.

use std::collections::HashMap;
use std::io;

use image::RgbImage;

use super::features::{Scorer, StoredImage, SubjectImages};
use crate::class_images::ClassImageSet;
use crate::db;
use crate::db::evaluation::EvaluationSampleState;
use crate::domain::digest::Digest;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::id::SampleId;
use crate::domain::image::{Image, ImageSource};
use crate::domain::job::JobState;
use crate::evaluator::Features;
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// Features of the photos of each concept, and the first of them for the sheet.
pub(super) struct Photos {
    pub(super) features: Vec<Features>,
    pub(super) thumbnails: Vec<RgbImage>,
}

/// Photos of each concept on the sheet.
const PHOTOS_ON_SHEET: usize = 6;

/// Finds the images of all samples.
///
/// # Errors
/// [`JobError::SampleFailed`] for the first one that did not succeed: figures of what is left would be those of another
/// evaluation.
pub(super) async fn load_subjects(
    job: &Job,
    task: &EvaluationTask,
) -> Result<Vec<SubjectImages>, JobError> {
    let (db, job_id) = (&job.context.db, job.lease.job_id);
    let samples = db::evaluation::samples_of(db, job_id).await?;
    if let Some(failed) = first_failure(&samples) {
        return Err(failed);
    }
    let ids: Vec<SampleId> = samples.iter().map(|sample| sample.sample_id).collect();
    let mut of_sample: HashMap<SampleId, Vec<Image>> = HashMap::new();
    for image in db::image::of_samples(db, &ids).await? {
        if let ImageSource::Sample { sample_id, .. } = image.source {
            of_sample.entry(sample_id).or_default().push(image);
        }
    }
    let mut subjects = vec![vec![Vec::new(); task.prompts.len()]; task.subjects.len()];
    for sample in &samples {
        // Samples were queued in the order of their images.
        let images = of_sample.remove(&sample.sample_id).unwrap_or_default();
        let place = subjects.get_mut(sample.subject).and_then(|its| its.get_mut(sample.prompt));
        if let Some(place) = place {
            place.extend(
                images.into_iter().map(|image| StoredImage {
                    key: image.storage_key,
                    sha256: Some(image.sha256),
                }),
            );
        }
    }
    Ok(subjects)
}

/// A sample that failed says more than one that was canceled because of it.
fn first_failure(samples: &[EvaluationSampleState]) -> Option<JobError> {
    let failed = samples.iter().find(|sample| sample.state == JobState::Failed);
    let ended = || samples.iter().find(|sample| sample.state != JobState::Succeeded);
    let sample = failed.or_else(ended)?;
    let reason = match &sample.error {
        Some(error) => error.detail.clone(),
        None => "it was canceled".to_owned(),
    };
    Some(JobError::SampleFailed { sample_id: sample.sample_id, reason })
}

/// Reads and scores the photos.
pub(super) async fn load_photos(
    scorer: &mut Scorer<'_>,
    task: &EvaluationTask,
) -> Result<Photos, JobError> {
    let mut photos = Photos { features: Vec::new(), thumbnails: Vec::new() };
    for concept in &task.concepts {
        let photos_of = concept.images.iter().map(|image| StoredImage {
            key: image.storage_key.clone(),
            sha256: image.sha256.clone(),
        });
        let stored: Vec<StoredImage> = photos_of.collect();
        let seen = scorer.look_at(&stored, PHOTOS_ON_SHEET, None).await?;
        photos.features.push(seen.whole);
        photos.thumbnails.extend(seen.thumbnails);
    }
    Ok(photos)
}

/// Held-out images that are decoded at a time, which bounds the memory of many.
const DECODED_AT_ONCE: usize = 32;

/// Reads and scores the held-out images, if the task names some.
pub(super) async fn load_held_out(
    scorer: &mut Scorer<'_>,
    task: &EvaluationTask,
) -> Result<Option<Features>, JobError> {
    let Some(held_out) = &task.held_out else { return Ok(None) };
    let key = &held_out.set.storage_key;
    let damaged =
        |error: io::Error| JobError::DamagedObject { key: key.clone(), source: error.into() };
    let bytes = scorer.job().read(key).await?;
    let digest = held_out.set.digest.clone();
    let set = tokio::task::spawn_blocking(move || {
        let actual = Digest::of(&bytes);
        if actual != digest {
            let text = format!("its bytes have the SHA-256 {actual:.12} instead of {digest:.12}");
            return Err(io::Error::other(text));
        }
        ClassImageSet::from_zip(&bytes)
    });
    let set = set.await.map_err(io::Error::other).and_then(|set| set).map_err(damaged)?;
    let places: Vec<usize> = (0..held_out.set.count).collect();
    let mut values = Vec::new();
    for places in places.chunks(DECODED_AT_ONCE) {
        let (set, places) = (set.clone(), places.to_vec());
        let read = tokio::task::spawn_blocking(move || set.pick(places)?.read());
        let images = read.await.map_err(io::Error::other).and_then(|images| images);
        let images = images.map_err(damaged)?.into_iter().map(|(image, _)| image).collect();
        values.extend_from_slice(scorer.features_of(images).await?.values());
    }
    Ok(Some(Features::new(task.evaluator.projection_dim, values)))
}
