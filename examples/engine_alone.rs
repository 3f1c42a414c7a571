//! The engine without the service: loads a base model, trains a concept and generates an image of it.
//!
//! ```sh
//! CANDLE_NUM_THREADS=1 cargo run --release --example engine_alone -- models/tiny demo/concepts/dog
//! ```
//!
//! With `CANDLE_NUM_THREADS=1`, candle's helper threads do not compete with the engine's for the cores (ADR 0002).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use image::RgbImage;
use vstar::domain::base_model::BaseModelProfile;
use vstar::domain::concept::{ClassNoun, ConceptWords, ModifierToken};
use vstar::domain::sample::Determinism;
use vstar::domain::training::TrainingRecipe;
use vstar::engine::{
    BaseModel, ConceptUse, Flow, SampleRequest, TrainingConcept, TrainingInput, sample, train,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, photos] = arguments.as_slice() else { bail!("arguments: MODEL_DIR PHOTO_DIR") };
    let base = BaseModel::load(Path::new(model), &Device::Cpu)?;
    let profile = std::fs::read(Path::new(model).join("vstar.json"))?;
    let profile: BaseModelProfile = serde_json::from_slice(&profile)?;

    // Fewer steps than the recipe has, and no class images: a quick look, not the best result.
    let recipe = TrainingRecipe { max_train_steps: 250, class_batch_size: 0, ..profile.training };
    let input = TrainingInput {
        concepts: vec![TrainingConcept {
            words: ConceptWords {
                modifier_token: Some(ModifierToken::try_from("<rex>".to_owned())?),
                class_noun: ClassNoun::try_from("dog".to_owned())?,
            },
            images: images_in(Path::new(photos))?,
            guides: Vec::new(),
            class_images: Vec::new(),
        }],
        recipe,
        seed: 1,
        memory_budget: None,
    };
    let delta = train(&base, &input, &mut |progress| {
        if progress.step % 50 == 0 {
            println!("{:?} {} of {}", progress.phase, progress.step, progress.total_steps);
        }
        Flow::Continue
    })?;
    std::fs::write("rex.safetensors", delta.to_safetensors()?)?;

    let request = SampleRequest {
        prompt: "photo of a <rex> dog on the beach".to_owned(),
        negative_prompt: String::new(),
        concepts: vec![ConceptUse { delta: Arc::new(delta), strength: 1.0 }],
        seed: 7,
        image_index: 0,
        num_inference_steps: profile.sampling.num_inference_steps,
        guidance_scale: profile.sampling.guidance_scale,
        unconditional_strength: 1.0,
        guidance_interval: [0.0, 1.0],
        scheduler: profile.sampling.scheduler,
        eta: profile.sampling.eta,
        width: base.resolution(),
        height: base.resolution(),
        init: None,
        determinism: Determinism::Strict,
    };
    let images = sample(&base, &[request], &mut |_step, _of| Flow::Continue)?;
    images.first().context("one request gives one image")?.save("rex.png")?;
    println!("look at rex.png; the delta is rex.safetensors");
    Ok(())
}

fn images_in(folder: &Path) -> Result<Vec<RgbImage>> {
    let mut files =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    files.iter().map(|file| Ok(image::open(file)?.to_rgb8())).collect()
}
