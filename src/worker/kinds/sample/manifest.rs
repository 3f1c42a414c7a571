//! What a sample's pictures are made from, as their manifests say it.

use crate::domain::manifest::{
    Manifest, ManifestDelta, ManifestFormat, ManifestInit, ManifestMerge,
};
use crate::domain::sample::{Determinism, SampleTask};
use crate::engine::VERSION;
use crate::worker::engine::Engine;
use crate::worker::error::JobError;
use crate::worker::job::JobContext;
use crate::worker::packs::Concepts;

/// The manifest of a task's first picture; those of the others differ in `image_index` alone.
///
/// - `concepts`: what the task's deltas name, in their order
pub(crate) async fn manifest_of(
    job: &JobContext,
    task: &SampleTask,
    concepts: &Concepts,
) -> Result<Manifest, JobError> {
    let (task, concepts) = (task.clone(), concepts.clone());
    Ok(job.worker.gpu.run_quick(move |engine| describe(engine, task, &concepts)).await??)
}

fn describe(
    engine: &Engine,
    task: SampleTask,
    concepts: &Concepts,
) -> crate::engine::Result<Manifest> {
    let base = &engine.base;
    let added = concepts.modifier_tokens();
    let token_ids = |prompt: &str| -> crate::engine::Result<Vec<u32>> {
        let mut tokens = base.tokenizer.encode(prompt, &added)?;
        tokens.ids.truncate(tokens.length);
        Ok(tokens.ids)
    };
    let settings = task.settings;
    let is_guided = settings.guidance_scale > 1.0;
    let merge = (task.deltas.len() > 1).then(|| ManifestMerge {
        captions_sha256: task.merge.captions.is_none().then(|| engine.captions_digest()),
        recipe: task.merge,
    });
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
