//! Class images that the base model generates, kept as an image set for the next training.

use std::io;

use image::RgbImage;
use tokio::sync::mpsc;

use crate::class_images::{CaptionedFile, ClassImageSet, PackedSet};
use crate::db;
use crate::domain::image_set::{Generation, ImageSet, ImageSetSource, Verdicts};
use crate::domain::job::Phase;
use crate::domain::sample::{Determinism, batch_elements};
use crate::domain::training::ImageSetRef;
use crate::engine::SampleRequest;
use crate::image_file;
use crate::worker::batch::{Generated, GenerationRequest};
use crate::worker::concepts::{SampleConcepts, SampleDeltas};
use crate::worker::error::JobError;
use crate::worker::job::Job;
use crate::worker::job_steps::JobSteps;

/// The set of a generation: the one that was recorded first, or a new one.
pub(super) async fn find_or_generate(
    job: &Job,
    generation: &Generation,
) -> Result<ImageSetRef, JobError> {
    let (db, project_id, digest) = (&job.context.db, job.lease.project_id, generation.digest());
    let find = || async { Ok(db::image_set::find_generated(db, project_id, &digest).await?) };
    if let Some(set) = job.patiently("looking for generated class images", find).await? {
        return Ok(set.reference());
    }
    let images = generate(job, generation).await?;
    let packed = pack(images, generation).await?;
    job.write(&packed.reference.storage_key, packed.bytes.clone()).await?;
    let record = || async { record(job, generation, &packed).await };
    job.patiently("recording the generated class images", record).await
}

/// Records a new set, unless another worker was faster: then that one's set counts for both.
async fn record(
    job: &Job,
    generation: &Generation,
    packed: &PackedSet,
) -> Result<ImageSetRef, JobError> {
    let name = format!("{} images of \"{}\"", generation.num_images, generation.prompt);
    let row = packed.row(name, ImageSetSource::Generated, Verdicts::default());
    let row = ImageSet { generation: Some(generation.clone()), ..row };
    let project_id = job.lease.project_id;
    let mut tx = job.context.db.begin().await?;
    db::image_set::lock_object(&mut *tx, &row.digest).await?;
    if db::image_set::record(&mut *tx, project_id, &row).await? {
        db::image_set::record_images(&mut *tx, row.image_set_id, &packed.images).await?;
        // An old object of a deleted set may have been collected since it was found.
        let (storage, key) = (&job.context.storage, &packed.reference.storage_key);
        if !storage.exists(key).await? {
            storage.write(key, packed.bytes.clone()).await?;
        }
    }
    let digest = generation.digest();
    let recorded = db::image_set::find_generated(&mut *tx, project_id, &digest).await?;
    tx.commit().await?;
    // `None` if it was deleted in this moment; its object is there all the same.
    Ok(recorded.map_or_else(|| packed.reference.clone(), |set| set.reference()))
}

/// Generates the images in the running batch, a part at a time, so that samples get their turn in between.
async fn generate(job: &Job, generation: &Generation) -> Result<Vec<RgbImage>, JobError> {
    let context = &job.context;
    let is_guided = requests(generation, 0, 1)[0].is_guided();
    let size = generation.size;
    let cost = batch_elements(is_guided, size, size, context.model.native_size);
    let mut images = Vec::new();
    let expected = generation.num_images * JobSteps::of(generation.num_inference_steps, 1.0);
    let steps = JobSteps::new(Phase::Regularizing, expected);
    while images.len() < generation.num_images {
        let before = images.len();
        let at_once = (context.permits.capacity() / 2 / cost.max(1)).max(1);
        let count = at_once.min(generation.num_images - before);
        let _permits = context.permits.take(count * cost);
        let (sender, generated) = mpsc::unbounded_channel();
        context.device.generate(GenerationRequest {
            progress: job.progress.clone(),
            concepts: SampleConcepts::new(&[], SampleDeltas::Whole(None)),
            requests: requests(generation, before, count),
            preview_every: None,
            watched: Vec::new(),
            steps: steps.clone(),
            images: sender,
        });
        images.extend(receive(generated, count).await?);
        job.progress.check()?;
    }
    Ok(images)
}

/// The images of a part, in the order of their numbers.
async fn receive(
    mut generated: mpsc::UnboundedReceiver<Result<Generated, JobError>>,
    count: usize,
) -> Result<Vec<RgbImage>, JobError> {
    let mut images = Vec::with_capacity(count);
    while images.len() < count {
        // If nothing was sent, the device thread is gone.
        images.push(generated.recv().await.ok_or(JobError::EnginePanicked)??);
    }
    images.sort_by_key(|generated| generated.index);
    Ok(images.into_iter().map(|generated| generated.image).collect())
}

/// The requests of `count` images from image `first`: an image is the same in whatever part it is generated.
fn requests(generation: &Generation, first: usize, count: usize) -> Vec<SampleRequest> {
    let request = |index| SampleRequest {
        prompt: generation.prompt.clone(),
        negative_prompt: String::new(),
        concepts: Vec::new(),
        seed: generation.seed,
        image_index: index as u64,
        num_inference_steps: generation.num_inference_steps,
        guidance_scale: generation.guidance_scale,
        unconditional_strength: 1.0,
        guidance_interval: [0.0, 1.0],
        scheduler: generation.scheduler,
        eta: generation.eta,
        width: generation.size,
        height: generation.size,
        init: None,
        determinism: Determinism::Strict,
    };
    (first..first + count).map(request).collect()
}

/// The images as a set, each captioned by the prompt.
async fn pack(images: Vec<RgbImage>, generation: &Generation) -> Result<PackedSet, JobError> {
    let caption = generation.prompt.clone();
    let pack = move || -> io::Result<PackedSet> {
        let files = images.iter().enumerate().map(|(index, image)| {
            let bytes = image_file::encode_plain(image).map_err(io::Error::other)?.into();
            Ok(CaptionedFile { path: format!("{index:06}.png"), caption: caption.clone(), bytes })
        });
        ClassImageSet::from_files(files.collect::<io::Result<_>>()?).pack()
    };
    let packed = tokio::task::spawn_blocking(pack).await.map_err(io::Error::other);
    packed.and_then(|packed| packed).map_err(|error| JobError::Encoding(error.into()))
}
