//! Trainings: from photos in the store to a delta in the store.

use image::RgbImage;
use image::imageops::FilterType;

use super::error::JobError;
use super::job::{JobContext, StepLoss};
use super::merging::{Packed, store_delta};
use crate::db;
use crate::domain::id::ConceptId;
use crate::domain::job::Phase;
use crate::domain::training::{ClassImages, TaskConcept, TrainingTask};
use crate::engine::custom_diffusion::train::{
    TrainingConcept, TrainingInput, TrainingPhase, TrainingProgress, train,
};
use crate::storage::StorageKey;

/// Learns the concepts and makes the delta their current one.
#[tracing::instrument(skip_all, fields(job.id = %job.job_id))]
pub(crate) async fn run(job: &JobContext, task: TrainingTask) -> Result<(), JobError> {
    job.check_base(&task.base_digest)?;
    job.enter(Phase::Fetching);
    let mut concepts = Vec::new();
    for concept in &task.concepts {
        concepts.push(read_concept(job, concept, task.class_images).await?);
    }
    let memory_budget = job.worker.config.memory_budget;
    let mut input = TrainingInput { concepts, recipe: task.recipe, seed: task.seed, memory_budget };

    let steps = job.clone();
    let packed = job.worker.gpu.run_long(move |engine, interludes| {
        input.memory_budget = input.memory_budget.or(engine.training_memory);
        let mut observe = |progress: &TrainingProgress| {
            let flow = note(&steps, progress);
            interludes.run(engine);
            flow
        };
        Packed::new(engine, &train(&engine.base, &input, &mut observe)?, None)
    });
    let packed = packed.await??;
    job.enter(Phase::Storing);
    job.check()?;

    let concepts: Vec<ConceptId> = task.concepts.iter().map(|concept| concept.concept_id).collect();
    let stored = store_delta(job, packed).await?;
    job.write_news().await?; // the last points of the loss curve; nothing more is accepted once the job has ended
    let mut tx = job.worker.db.begin().await?;
    if !db::job::succeed(&mut *tx, job.job_id, job.fence).await? {
        return Err(JobError::LeaseLost);
    }
    db::delta::record(&mut *tx, stored.row(&task.base_digest)).await?;
    db::delta::record_concepts(&mut *tx, stored.delta_id, &concepts).await?;
    db::concept::set_current_delta(&mut *tx, &concepts, stored.delta_id).await?;
    tx.commit().await?;
    Ok(())
}

fn note(job: &JobContext, progress: &TrainingProgress) -> crate::engine::Flow {
    let (phase, loss) = match progress.phase {
        TrainingPhase::Encoding => (Phase::Encoding, None),
        TrainingPhase::Optimizing => {
            let loss = StepLoss { loss: f64::from(progress.loss), grad_norm: progress.grad_norm };
            (Phase::Optimizing, Some(loss))
        }
    };
    job.step(phase, progress.step, progress.total_steps, loss)
}

/// Reads the photos of a concept, and the class images that go with it.
async fn read_concept(
    job: &JobContext,
    concept: &TaskConcept,
    class_images: ClassImages,
) -> Result<TrainingConcept, JobError> {
    // Training resizes every photo to about the model's size: what goes far beyond it would only take memory.
    let max_side = (4 * job.worker.resolution()).max(1024) as u32;
    let mut images: Vec<RgbImage> = Vec::new();
    for image in &concept.images {
        let key = StorageKey::stored(&image.storage_key);
        let bytes = job.worker.storage.read(&key).await?;
        let decoded = tokio::task::spawn_blocking(move || decode(&bytes, max_side)).await;
        let decoded = decoded.map_err(image_error).and_then(|image| image.map_err(image_error));
        images.push(
            decoded.map_err(|source| JobError::DamagedObject {
                key: key.as_str().to_owned(),
                source,
            })?,
        );
        job.check()?;
    }
    let class_images = match class_images {
        ClassImages::None => Vec::new(),
        ClassImages::Auto => {
            let chosen = job.worker.class_images.choose(&concept.words.class_noun);
            let read = tokio::task::spawn_blocking(move || chosen.read()).await;
            read.map_err(std::io::Error::other)
                .and_then(|images| images)
                .map_err(JobError::ClassImages)?
        }
    };
    Ok(TrainingConcept {
        modifier_token: concept.words.modifier_token.clone(),
        class_noun: concept.words.class_noun.to_string(),
        images,
        class_images,
    })
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
