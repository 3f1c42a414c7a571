//! Features of images and prompts, a few at a time, so that running samples keep the device.

use futures::{StreamExt, TryStreamExt, stream};
use image::RgbImage;
use image::imageops::FilterType;

use crate::domain::digest::Digest;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::evaluation::prompt::EvaluationPrompt;
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

/// Where an image is, and its digest; photos of older tasks have none.
#[derive(Clone, Debug)]
pub(super) struct StoredImage {
    pub(super) key: StorageKey,
    pub(super) sha256: Option<Digest>,
}

/// Where the images of a subject are: prompt by prompt, in the order of their indices.
pub(super) type SubjectImages = Vec<Vec<StoredImage>>;

/// Thumbnails of each subject's first images, prompt by prompt.
pub(super) type Thumbnails = Vec<Vec<Vec<RgbImage>>>;

/// What images look like to the evaluator.
pub(super) struct Seen {
    pub(super) whole: Features,
    /// Of each part, one row per image.
    pub(super) parts: Vec<Features>,
    pub(super) thumbnails: Vec<RgbImage>,
}

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
            let mut one = ScoredSubject { images: Vec::new(), parts: Vec::new() };
            let mut thumbnails = Vec::new();
            for (stored, prompt) in subject.iter().zip(&task.prompts) {
                let seen = self.look_at(stored, on_sheet, Some(prompt)).await?;
                self.done += stored.len();
                self.job.progress.step(Phase::Scoring, self.done, self.total, None);
                one.images.push(seen.whole);
                one.parts.push(seen.parts);
                thumbnails.push(seen.thumbnails);
            }
            scored.push(one);
            self.thumbnails.push(thumbnails);
        }
        let prompts: Vec<String> = task.prompts.iter().map(|prompt| prompt.plain.clone()).collect();
        let prompts = self.text_features(prompts).await?;
        Ok(Scores { photos, prompts, held_out: None, subjects: scored })
    }

    pub(super) fn into_thumbnails(self) -> Thumbnails {
        self.thumbnails
    }

    /// Reads stored images.
    ///
    /// - `keep`: how many thumbnails are kept, from the first image on
    /// - `prompt`: of the images, if they are generated; it says which parts of them are looked at as well
    pub(super) async fn look_at(
        &mut self,
        stored: &[StoredImage],
        keep: usize,
        prompt: Option<&EvaluationPrompt>,
    ) -> Result<Seen, JobError> {
        let mut values = Vec::new();
        let mut thumbnails = Vec::new();
        // Of each part, those of all images.
        let mut of_parts: Vec<Vec<f32>> = Vec::new();
        for stored in stored.chunks(BATCH) {
            let images: Vec<RgbImage> = stream::iter(stored.to_vec())
                .map(|image| read(self.job, image))
                .buffered(BATCH)
                .try_collect()
                .await?;
            let missing = keep.saturating_sub(thumbnails.len());
            thumbnails.extend(images.iter().take(missing).map(thumbnail));
            let crops = prompt.map_or_else(Vec::new, |prompt| parts_of(&images, prompt));
            of_parts.resize(crops.len(), Vec::new());
            for (values, crops) in of_parts.iter_mut().zip(crops) {
                values.extend_from_slice(self.features_of(crops).await?.values());
            }
            values.extend_from_slice(self.features_of(images).await?.values());
        }
        let features = |values| Features::new(self.evaluator.info().projection_dim, values);
        let parts = of_parts.into_iter().map(features).collect();
        Ok(Seen { whole: features(values), parts, thumbnails })
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

/// The parts of images of several things: for each part, that of every image.
fn parts_of(images: &[RgbImage], prompt: &EvaluationPrompt) -> Vec<Vec<RgbImage>> {
    let mut crops: Vec<Vec<RgbImage>> = Vec::new();
    for image in images {
        let parts = prompt.parts(image.width(), image.height());
        crops.resize(parts.len(), Vec::new());
        for (crops, part) in crops.iter_mut().zip(parts) {
            let crop = image::imageops::crop_imm(image, part.x, part.y, part.side, part.side);
            crops.push(crop.to_image());
        }
    }
    crops
}

/// Images of a subject on a prompt that the sheet has room for.
fn images_on_sheet(subjects: usize) -> usize {
    match subjects {
        0..=2 => 4,
        3..=4 => 3,
        5.. => 2,
    }
}

async fn read(job: &Job, StoredImage { key, sha256 }: StoredImage) -> Result<RgbImage, JobError> {
    let bytes = job.read_checked(&key, sha256.as_ref()).await?;
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
