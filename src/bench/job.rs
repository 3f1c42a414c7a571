//! The main job through the engine alone: two concepts are taught from photos, merged, and images of them are written.
//!
//! `gpu/check` runs it on the CPU and on a GPU and compares losses and images.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use image::RgbImage;
use serde::Serialize;

use super::Computing;
use super::args::BenchArgs;
use crate::domain::base_model::BaseModelProfile;
use crate::domain::concept::{ClassNoun, ConceptWords, ModifierToken};
use crate::domain::merge::MergeRecipe;
use crate::domain::sample::Determinism;
use crate::domain::training::TrainingRecipe;
use crate::engine::weights::read_json;
use crate::engine::{
    BaseModel, ConceptUse, Delta, Flow, Merge, MergePack, PackUse, RegularizationStatistics,
    SampleRequest, TrainingConcept, TrainingInput, TrainingPhase, sample, train,
};

/// What is taught: a modifier token, a class noun, and the folder of `--photos` with the same name.
const CONCEPTS: [(&str, &str); 2] = [("<rex>", "dog"), ("<tom>", "cat")];
/// Captions of what the base model knows, which the merge keeps: every thing in every place.
const THINGS: [&str; 12] =
    ["dog", "cat", "house", "car", "tree", "chair", "ball", "fish", "bird", "cup", "boat", "lamp"];
const PLACES: [&str; 10] = [
    "on the grass",
    "on the beach",
    "in the snow",
    "at night",
    "on a table",
    "next to a tree",
    "in front of a house",
    "under a red sky",
    "in a room",
    "on the road",
];

/// What is printed.
#[derive(Serialize)]
pub(super) struct JobReport {
    engine: &'static str,
    what: &'static str,
    device: String,
    dtype: &'static str,
    steps: usize,
    /// Of every step, for each concept.
    losses: Vec<Vec<f32>>,
    train_s: f64,
    merge_s: f64,
    sample_s: f64,
    /// Files below `--out`, in the order in which they were drawn.
    images: Vec<String>,
}

/// Does the job.
///
/// # Errors
/// A folder that does not load, missing photos, or what the engine says.
pub(super) fn run(args: &BenchArgs, computing: Computing<'_>) -> Result<JobReport> {
    let Computing { device, dtype, precision } = computing;
    let photos = args.photos.as_deref().context("--photos: the folder with dog/ and cat/")?;
    let out = args.out.as_deref().context("--out: the folder for the images")?;
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let base = BaseModel::load_as(&args.model, device, dtype, precision)?;
    let profile = match args.model.join("vstar.json") {
        path if path.is_file() => read_json::<BaseModelProfile>(&path)?,
        _ => BaseModelProfile::default(),
    };
    let recipe = TrainingRecipe {
        max_train_steps: args.repeat,
        class_batch_size: 0,
        initializer_candidates: Vec::new(),
        ..profile.training.clone()
    };

    let (mut deltas, mut losses) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for (modifier_token, class_noun) in CONCEPTS {
        let words = ConceptWords {
            modifier_token: Some(ModifierToken::try_from(modifier_token.to_owned())?),
            class_noun: ClassNoun::try_from(class_noun.to_owned())?,
        };
        let images = images_in(&photos.join(class_noun))?;
        let concept =
            TrainingConcept { words, images, guides: Vec::new(), class_images: Vec::new() };
        let input = TrainingInput {
            concepts: vec![concept],
            recipe: recipe.clone(),
            seed: 1,
            memory_budget: args.memory_budget.map(|budget| budget.0),
        };
        let mut of_concept = Vec::new();
        let delta = train(&base, &input, &mut |progress| {
            if progress.phase == TrainingPhase::Optimizing {
                of_concept.push(progress.loss);
            }
            Flow::Continue
        })?;
        losses.push(of_concept);
        deltas.push(Arc::new(delta));
    }
    let train_s = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let captions: Vec<String> = THINGS
        .iter()
        .flat_map(|thing| PLACES.iter().map(move |place| format!("photo of a {thing} {place}")))
        .collect();
    let statistics = RegularizationStatistics::new(&base, &captions)?;
    let packs = deltas.iter().map(|delta| {
        Ok(PackUse { pack: Arc::new(MergePack::build(&base, delta, 1.0)?), strength: 1.0 })
    });
    let merge_recipe = MergeRecipe::default();
    let merge = Merge::new(&statistics, &packs.collect::<Result<Vec<_>>>()?, &merge_recipe)?;
    let merged = Arc::new(merge.to_delta(&base, &merge_recipe)?);
    let merge_s = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let (rex, tom) = (deltas[0].clone(), deltas[1].clone());
    let drawn: [(&str, &str, Option<Arc<Delta>>); 6] = [
        ("base", "photo of a dog on the grass", None),
        ("rex-grass", "photo of a <rex> dog on the grass", Some(rex.clone())),
        ("rex-beach", "photo of a <rex> dog on the beach", Some(rex)),
        ("tom-snow", "photo of a <tom> cat in the snow", Some(tom)),
        ("merged-rex", "photo of a <rex> dog at night", Some(merged.clone())),
        ("merged-both", "a <rex> dog next to a <tom> cat", Some(merged)),
    ];
    let requests: Vec<SampleRequest> = drawn
        .iter()
        .map(|(_, prompt, delta)| request(&base, &profile, prompt, delta.clone()))
        .collect();
    let images = sample(&base, &requests, &mut |_, _| Flow::Continue)?;
    let sample_s = began.elapsed().as_secs_f64();

    let mut files = Vec::new();
    for ((name, ..), image) in drawn.iter().zip(&images) {
        let file = format!("{name}.png");
        image.save(out.join(&file))?;
        // The same without compression, for programs that have no decoder.
        std::fs::write(out.join(format!("{name}.rgb")), image.as_raw())?;
        files.push(file);
    }
    Ok(JobReport {
        engine: "vstar",
        what: "job",
        device: args.device.clone(),
        dtype: dtype.as_str(),
        steps: args.repeat,
        losses,
        train_s,
        merge_s,
        sample_s,
        images: files,
    })
}

fn request(
    base: &BaseModel,
    profile: &BaseModelProfile,
    prompt: &str,
    delta: Option<Arc<Delta>>,
) -> SampleRequest {
    let sampling = &profile.sampling;
    SampleRequest {
        prompt: prompt.to_owned(),
        negative_prompt: String::new(),
        concepts: delta.into_iter().map(|delta| ConceptUse { delta, strength: 1.0 }).collect(),
        seed: 7,
        image_index: 0,
        num_inference_steps: sampling.num_inference_steps,
        guidance_scale: sampling.guidance_scale,
        unconditional_strength: 1.0,
        guidance_interval: [0.0, 1.0],
        scheduler: sampling.scheduler,
        eta: sampling.eta,
        width: base.resolution(),
        height: base.resolution(),
        init: None,
        determinism: Determinism::Strict,
    }
}

/// The photos of a folder, in the order of their names.
fn images_in(folder: &Path) -> Result<Vec<RgbImage>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|end| end == "jpg" || end == "png"));
    files.sort();
    ensure!(!files.is_empty(), "no photos in {}", folder.display());
    files.iter().map(|file| Ok(image::open(file)?.to_rgb8())).collect()
}
