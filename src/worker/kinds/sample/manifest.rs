//! What a sample's images are made from, as their manifests say it.

use crate::domain::composition::Composition;
use crate::domain::manifest::{
    Manifest, ManifestDelta, ManifestFormat, ManifestInit, ManifestMerge,
};
use crate::domain::sample::{Determinism, SampleTask};
use crate::engine::VERSION;
use crate::engine::captions_digest;
use crate::worker::concepts::SampleConcepts;
use crate::worker::engine::Engine;
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// The manifest of a task's first image; those of the others differ in `image_index` and in how they
/// were composed.
///
/// - `concepts`: what the task's deltas name
pub(super) async fn manifest_of(
    job: &Job,
    task: &SampleTask,
    concepts: SampleConcepts,
) -> Result<Manifest, JobError> {
    let is_merged = task.composition == Composition::Merge && task.deltas.len() > 1;
    let merge = is_merged.then(|| ManifestMerge {
        captions_sha256: match &task.merge.captions {
            Some(_) => None, // they are in the recipe
            None => Some(captions_digest(&job.context.class_images.captions())),
        },
        recipe: task.merge.clone(),
    });
    let task = task.clone();
    let describe = move |engine: &Engine| describe(engine, task, &concepts, merge);
    Ok(job.context.device.run_quick(describe).await??)
}

fn describe(
    engine: &Engine,
    task: SampleTask,
    concepts: &SampleConcepts,
    merge: Option<ManifestMerge>,
) -> crate::engine::Result<Manifest> {
    let base = &engine.base;
    let added = concepts.modifier_tokens();
    let token_ids = |prompt: &str| -> crate::engine::Result<Vec<u32>> {
        let mut tokens = base.prompt_encoder.tokenize(prompt, &added)?;
        tokens.ids.truncate(tokens.length);
        Ok(tokens.ids)
    };
    let settings = task.settings;
    let is_guided = settings.is_guided();
    Ok(Manifest {
        format: ManifestFormat::V1,
        engine_version: VERSION.to_owned(),
        precision: base.arithmetic.clone(),
        base_model: task.base_digest,
        prompt_token_ids: token_ids(&task.prompt)?,
        prompt: task.prompt,
        negative_prompt_token_ids: match is_guided {
            true => token_ids(&task.negative_prompt)?,
            false => Vec::new(),
        },
        negative_prompt: task.negative_prompt,
        deltas: task
            .deltas
            .into_iter()
            .map(|used| ManifestDelta { sha256: used.sha256, strength: used.strength })
            .collect(),
        merge,
        composition: None, // it is known once the image is there
        seed: settings.seed,
        image_index: settings.first_index,
        scheduler: settings.scheduler,
        num_inference_steps: settings.num_inference_steps,
        eta: settings.eta,
        guidance_scale: settings.guidance_scale,
        unconditional_strength: settings.unconditional_strength,
        guidance_interval: settings.guidance_interval,
        width: settings.width,
        height: settings.height,
        init_image: task
            .init
            .map(|init| ManifestInit { sha256: init.sha256, noise_strength: init.noise_strength }),
        reproducible: base.device.is_cpu() || settings.determinism == Determinism::Strict,
    })
}
