//! Samples: from a prompt to images in the store.

mod generation;
mod init_image;
mod manifest;
mod regional;

use chrono::Utc;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use image::RgbImage;
use tokio::task::JoinSet;

use self::generation::{Generation, start};
use self::init_image::read_init;
use self::manifest::manifest_of;
use crate::db;
use crate::domain::composition::{Composition, UsedRegion};
use crate::domain::digest::Digest;
use crate::domain::id::{ImageId, SampleId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::job::Phase;
use crate::domain::manifest::{Manifest, ManifestComposition};
use crate::domain::record::{Labels, Record};
use crate::domain::sample::SampleTask;
use crate::engine::ConceptUse;
use crate::image_file;
use crate::storage::StorageKey;
use crate::worker::concepts::{SampleConcepts, SampleDeltas};
use crate::worker::error::JobError;
use crate::worker::job::{Admission, Job, Kind};
use crate::worker::permits::Permits;

pub(crate) struct Sample;

/// A finished image of a sample.
struct Finished {
    /// Its place among the images of the sample.
    index: usize,
    image: RgbImage,
    /// Where concepts were drawn, in a composition by regions.
    regions: Vec<UsedRegion>,
}

impl Kind for Sample {
    type Task = SampleTask;
    const ADMISSION: Admission = Admission::ByPermits;

    /// Generates the images in the running batch, stores each when it is finished, and records them all.
    async fn run(job: &Job, task: SampleTask, permits: Permits) -> Result<(), JobError> {
        let progress = &job.progress;
        let read = || async { read_deltas(job, &task).await };
        let deltas = job.patiently("reading the deltas", read).await?;
        let concepts = SampleConcepts::new(&task.deltas, deltas);
        let init = read_init(job, &task).await?;
        let generated = match &task.composition {
            Composition::Merge | Composition::Tokens => whole(job, &task, &concepts, init),
            Composition::Regional(regional) => {
                regional::start(job, &task, regional, &concepts, init).await?
            }
        };
        // Described while the images are generated, so that no first step waits for it.
        let manifest = manifest_of(job, &task, concepts).await?;
        let images = store_images(job, &task, &manifest, generated, permits).await?;
        progress.check()?;

        job.patiently("recording the images", || async { record(job, &images).await }).await
    }
}

/// Records the images and ends the job, all at once.
async fn record(job: &Job, images: &[Image]) -> Result<(), JobError> {
    let Job { context, lease, progress } = job;
    let mut tx = context.db.begin().await?;
    if let Some(ago) = progress.since_first_step() {
        db::job::note_first_step(&mut *tx, lease.job_id, lease.fence, ago).await?;
    }
    if !db::job::succeed(&mut *tx, lease.job_id, lease.fence).await? {
        drop(tx);
        return job.expect_success().await;
    }
    for image in images {
        db::image::record(&mut *tx, lease.project_id, image).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Reads what the task names: one delta as it is, several as they are, or their packs, which are merged for this sample.
async fn read_deltas(job: &Job, task: &SampleTask) -> Result<SampleDeltas, JobError> {
    let context = &job.context;
    match (&task.composition, task.deltas.as_slice()) {
        (Composition::Merge, []) => Ok(SampleDeltas::Whole(None)),
        (Composition::Merge, [used]) => {
            let delta = context.deltas.delta(used).await?;
            Ok(SampleDeltas::Whole(Some(ConceptUse { delta, strength: used.strength })))
        }
        (Composition::Merge, several) => Ok(SampleDeltas::Merged {
            packs: context.packs(several).await?,
            statistics: context.statistics(task.merge.captions.as_deref()).await?,
            recipe: task.merge.clone(),
        }),
        (Composition::Tokens | Composition::Regional(_), all) => {
            let mut uses = Vec::new();
            for used in all {
                let delta = context.deltas.delta(used).await?;
                uses.push(ConceptUse { delta, strength: used.strength });
            }
            Ok(SampleDeltas::AtOwnWords(uses))
        }
    }
}

/// Generates each image at once.
fn whole(
    job: &Job,
    task: &SampleTask,
    concepts: &SampleConcepts,
    init: Option<crate::engine::InitImage>,
) -> BoxStream<'static, Result<Finished, JobError>> {
    let generation = Generation {
        prompt: task.prompt.clone(),
        negative_prompt: task.negative_prompt.clone(),
        init,
        ..Generation::of(task)
    };
    let steps = generation.steps(Phase::Denoising, task.settings.n);
    let requests = generation.requests(task.settings.indices());
    let preview_every = task.settings.preview_every;
    let generated = start(job, concepts.clone(), requests, preview_every, Vec::new(), steps);
    let finished = generated.map(|generated| {
        let generated = generated?;
        Ok(Finished { index: generated.index, image: generated.image, regions: Vec::new() })
    });
    finished.boxed()
}

/// Writes the images as they are finished, without blocking the device thread, and releases the permits of each.
async fn store_images(
    job: &Job,
    task: &SampleTask,
    manifest: &Manifest,
    mut finished: BoxStream<'static, Result<Finished, JobError>>,
    mut permits: Permits,
) -> Result<Vec<Image>, JobError> {
    let cost = task.elements_per_image(job.context.model.native_size);
    let mut storing = JoinSet::new();
    for _ in 0..task.settings.n {
        // If nothing was sent, the device thread is gone.
        let finished = finished.next().await.ok_or(JobError::EnginePanicked)??;
        permits.release(cost);
        let mut manifest = manifest.clone();
        manifest.image_index = task.settings.first_index + finished.index;
        manifest.composition = ManifestComposition::of(&task.composition, &finished.regions);
        storing.spawn(store(job.clone(), finished, manifest));
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
async fn store(job: Job, finished: Finished, manifest: Manifest) -> Result<Image, JobError> {
    let Finished { image, regions, .. } = finished;
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
    let created_at = Utc::now();
    let image = Image {
        image_id: ImageId::generate(),
        source: ImageSource::Sample { sample_id: SampleId::from(job_id), index: index as i32 },
        width: width as i32,
        height: height as i32,
        size_bytes: png.len() as i64,
        sha256,
        storage_key: key.clone(),
        regions,
        created_at,
        record: Record::new(created_at, Labels::default()),
    };
    job.write(&key, png).await?;
    Ok(image)
}

/// The items of a channel as a stream.
fn stream_of<T: Send + 'static>(
    receiver: tokio::sync::mpsc::UnboundedReceiver<T>,
) -> BoxStream<'static, T> {
    let next = |mut receiver: tokio::sync::mpsc::UnboundedReceiver<T>| async {
        receiver.recv().await.map(|item| (item, receiver))
    };
    stream::unfold(receiver, next).boxed()
}
