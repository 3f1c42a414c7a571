//! Samples: from a prompt to pictures in the store.

use std::io::Cursor;
use std::sync::Arc;

use chrono::Utc;
use image::{ImageFormat, RgbImage};
use sha2::{Digest, Sha256};

use super::error::JobError;
use super::job::JobContext;
use super::merging::merge_deltas;
use crate::db;
use crate::domain::id::{ImageId, SampleId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::job::Phase;
use crate::domain::sample::SampleTask;
use crate::engine::conditioning::ConceptUse;
use crate::engine::sampler::{SampleRequest, sample};
use crate::storage::StorageKey;

/// Draws the pictures and records them.
#[tracing::instrument(skip_all, fields(job.id = %job.job_id))]
pub(crate) async fn run(job: &JobContext, task: SampleTask) -> Result<(), JobError> {
    job.check_base(&task.base_digest)?;
    job.enter(Phase::Fetching);
    let concepts = job.worker.deltas.read(&job.worker.storage, &task.deltas).await?;
    let (width, height) = (task.settings.width, task.settings.height);
    let first_index = task.settings.first_index;

    let steps = job.clone();
    let pictures = job.worker.gpu.run_quick(move |engine| {
        // What two deltas change overlaps, so they are merged, not added.
        let concepts = if concepts.len() < 2 {
            concepts
        } else {
            steps.enter(Phase::Merging);
            vec![ConceptUse {
                delta: Arc::new(merge_deltas(engine, &concepts, &task.merge)?),
                strength: 1.0,
            }]
        };
        let requests = requests(&task, &concepts);
        sample(&engine.base, &requests, &mut |step, of| {
            steps.step(Phase::Denoising, step, of, None)
        })
    });
    let pictures = pictures.await??;
    job.enter(Phase::Storing);
    job.check()?;

    let mut images = Vec::new();
    for (index, picture) in (first_index..).zip(&pictures) {
        let key = StorageKey::sample(job.job_id, job.fence, index);
        let png = encode_png(picture)?;
        images.push(Image {
            image_id: ImageId::generate(),
            source: ImageSource::Sample {
                sample_id: SampleId::from(job.job_id),
                index: index as i32,
            },
            width: width as i32,
            height: height as i32,
            size_bytes: png.len() as i64,
            sha256: data_encoding::HEXLOWER.encode(&Sha256::digest(&png)),
            storage_key: key.as_str().to_owned(),
            created_at: Utc::now(),
        });
        job.worker.storage.write(&key, png).await?;
    }
    let mut tx = job.worker.db.begin().await?;
    if !db::jobs::succeed(&mut *tx, job.job_id, job.fence).await? {
        return Err(JobError::LeaseLost);
    }
    for image in &images {
        db::images::record(&mut *tx, image).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// One request per picture.
fn requests(task: &SampleTask, concepts: &[ConceptUse]) -> Vec<SampleRequest> {
    let settings = &task.settings;
    let request = |index| SampleRequest {
        prompt: task.prompt.clone(),
        negative_prompt: task.negative_prompt.clone(),
        concepts: concepts.to_vec(),
        seed: settings.seed,
        image_index: (settings.first_index + index) as u64,
        num_inference_steps: settings.num_inference_steps,
        guidance_scale: settings.guidance_scale,
        unconditional_strength: settings.unconditional_strength,
        guidance_interval: settings.guidance_interval,
        scheduler: settings.scheduler,
        eta: settings.eta,
        width: settings.width,
        height: settings.height,
        init: None,
        determinism: settings.determinism,
    };
    (0..settings.n).map(request).collect()
}

fn encode_png(picture: &RgbImage) -> Result<Vec<u8>, JobError> {
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).map_err(|error| JobError::DamagedObject {
        key: "the drawn picture".to_owned(),
        source: error.into(),
    })?;
    Ok(png.into_inner())
}
