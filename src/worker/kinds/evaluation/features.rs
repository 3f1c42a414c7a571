//! Features of images and prompts, a few at a time, so that running samples keep the device.

use futures::{StreamExt, TryStreamExt, stream};
use image::RgbImage;
use image::imageops::FilterType;

use crate::domain::evaluation::EvaluationTask;
use crate::domain::job::Phase;
use crate::evaluator::{Evaluator, Features};
use crate::scoring::{ScoredSubject, Scores};
use crate::storage::StorageKey;
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// Images per visit to the device.
const BATCH: usize = 8;
/// Side of the images that are kept for the sheet, in pixels.
const THUMBNAIL: u32 = 96;

/// Where the images of a subject are: prompt by prompt, in the order of their indices.
pub(super) type SubjectImages = Vec<Vec<StorageKey>>;

/// Thumbnails of each subject's first images, prompt by prompt.
pub(super) type Thumbnails = Vec<Vec<Vec<RgbImage>>>;

/// Computes features on the worker's device and counts the images that are done.
pub(super) struct Scorer<'a> {
    job: &'a Job,
    evaluator: Evaluator,
    done: usize,
    total: usize,
    thumbnails: Thumbnails,
}

impl<'a> Scorer<'a> {
    /// - `total`: the generated images
    pub(super) fn new(job: &'a Job, evaluator: Evaluator, total: usize) -> Self {
        Self { job, evaluator, done: 0, total, thumbnails: Vec::new() }
    }

    pub(super) fn job(&self) -> &Job {
        self.job
    }

    /// Scores the images of all subjects, and their prompts.
    pub(super) async fn scores(
        &mut self,
        task: &EvaluationTask,
        photos: Vec<Features>,
        subjects: &[SubjectImages],
    ) -> Result<Scores, JobError> {
        let on_sheet = images_on_sheet(subjects.len());
        let mut scored = Vec::new();
        for subject in subjects {
            let (mut features, mut thumbnails) = (Vec::new(), Vec::new());
            for keys in subject {
                let (of_prompt, first) = self.image_features(keys, on_sheet).await?;
                self.done += keys.len();
                self.job.progress.step(Phase::Scoring, self.done, self.total, None);
                features.push(of_prompt);
                thumbnails.push(first);
            }
            scored.push(ScoredSubject { images: features });
            self.thumbnails.push(thumbnails);
        }
        let prompts: Vec<String> = task.prompts.iter().map(|prompt| prompt.plain.clone()).collect();
        let prompts = self.text_features(prompts).await?;
        Ok(Scores { photos, prompts, held_out: None, subjects: scored })
    }

    pub(super) fn into_thumbnails(self) -> Thumbnails {
        self.thumbnails
    }

    /// The features of stored images, and thumbnails of the first `keep`.
    pub(super) async fn image_features(
        &mut self,
        keys: &[StorageKey],
        keep: usize,
    ) -> Result<(Features, Vec<RgbImage>), JobError> {
        let (mut values, mut thumbnails) = (Vec::new(), Vec::new());
        for keys in keys.chunks(BATCH) {
            let images: Vec<RgbImage> = stream::iter(keys.to_vec())
                .map(|key| read(self.job, key))
                .buffered(BATCH)
                .try_collect()
                .await?;
            let missing = keep.saturating_sub(thumbnails.len());
            thumbnails.extend(images.iter().take(missing).map(thumbnail));
            values.extend_from_slice(self.features_of(images).await?.values());
        }
        Ok((Features::new(self.evaluator.info().projection_dim, values), thumbnails))
    }

    /// The features of images.
    pub(super) async fn features_of(
        &mut self,
        images: Vec<RgbImage>,
    ) -> Result<Features, JobError> {
        let width = self.evaluator.info().projection_dim;
        let mut values = Vec::with_capacity(images.len() * width);
        for images in images.chunks(BATCH) {
            self.job.progress.check()?;
            let (evaluator, images) = (self.evaluator.clone(), images.to_vec());
            let features =
                self.job.context.device.run_quick(move |_| evaluator.image_features(&images));
            values.extend_from_slice(features.await??.values());
        }
        Ok(Features::new(width, values))
    }

    async fn text_features(&self, texts: Vec<String>) -> Result<Features, JobError> {
        let evaluator = self.evaluator.clone();
        let features = self.job.context.device.run_quick(move |_| {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            evaluator.text_features(&texts)
        });
        Ok(features.await??)
    }
}

/// Images of a subject on a prompt that the sheet has room for.
fn images_on_sheet(subjects: usize) -> usize {
    match subjects {
        0..=2 => 4,
        3..=4 => 3,
        5.. => 2,
    }
}

async fn read(job: &Job, key: StorageKey) -> Result<RgbImage, JobError> {
    let bytes = job.context.storage.read(&key).await?;
    let decoded = tokio::task::spawn_blocking(move || image::load_from_memory(&bytes)).await;
    match decoded {
        Ok(Ok(image)) => Ok(image.to_rgb8()),
        Ok(Err(error)) => Err(JobError::DamagedObject { key, source: error.into() }),
        Err(panic) => Err(JobError::DamagedObject { key, source: panic.into() }),
    }
}

fn thumbnail(image: &RgbImage) -> RgbImage {
    if image.width().max(image.height()) <= 2 * THUMBNAIL {
        return image.clone();
    }
    image::imageops::resize(image, THUMBNAIL, THUMBNAIL, FilterType::Triangle)
}
