//! `vstar merging-sheet`: what merges of trained deltas look like, on one sheet, with the verdict of a merge check.
//!
//! It reads delta files and uses the engine alone. It merges two deltas that go together, at three strengths, and two
//! that contradict each other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::Args;
use image::RgbImage;

use super::sheet::{Group, render_groups};
use crate::config::bundled;
use crate::domain::merge::{MergeRecipe, MergeReport, Verdict};
use crate::domain::sample::Determinism;
use crate::engine::{
    BaseModel, ConceptUse, Delta, Flow, Merge, MergePack, PackUse, RegularizationStatistics,
    SampleRequest, sample,
};
use crate::model_folder::ModelFolder;
use crate::stdout;

/// Images of each prompt, one per seed.
const SEEDS: [u64; 2] = [1, 2];
/// Strengths of the first concept beside the second.
const STRENGTHS: [f64; 3] = [0.5, 0.75, 1.0];
/// Where concepts stand that are alone in their prompt.
const PLACE: &str = "on the grass";

/// What the sheet is made of.
#[derive(Clone, Debug, Args)]
pub struct MergingSheetArgs {
    /// A delta, such as demo-out/dog/delta.safetensors.
    #[arg(long)]
    first: PathBuf,
    /// One that goes together with it, such as demo-out/gate/delta.safetensors.
    #[arg(long)]
    second: PathBuf,
    /// Two that contradict each other, such as two things taught under one class noun with modifier tokens that have
    /// hardly moved apart.
    #[arg(long, num_args = 2, value_names = ["DELTA", "DELTA"])]
    conflict: Vec<PathBuf>,
    /// The base model's folder; the repository's own if left out.
    #[arg(long)]
    base_model: Option<PathBuf>,
    /// Where to write the sheet.
    #[arg(long, default_value = "assets/merging.png")]
    out: PathBuf,
}

/// A delta with the name of its first concept.
struct Learnt {
    delta: Arc<Delta>,
    name: String,
}

struct Studio {
    base: BaseModel,
    statistics: RegularizationStatistics,
}

/// Makes the sheet and prints the checks.
///
/// # Errors
/// A sentence about the file that cannot be read, or why deltas do not merge.
pub fn run(args: &MergingSheetArgs) -> Result<()> {
    let dir = match &args.base_model {
        Some(dir) => dir.clone(),
        None => bundled("models/tiny")
            .context("the repository's model is not here: give --base-model DIR")?,
    };
    let base = BaseModel::load(&dir, &Device::Cpu)?;
    let captions = ModelFolder::open(&dir)?.class_images.captions();
    let studio = Studio { statistics: RegularizationStatistics::new(&base, &captions)?, base };
    let (first, second) = (studio.read(&args.first)?, studio.read(&args.second)?);
    let twins = args.conflict.iter().map(|path| studio.read(path)).collect::<Result<Vec<_>>>()?;
    let [one, other] = twins.as_slice() else { bail!("--conflict takes two deltas") };

    let mut lines = vec![("two concepts alone".to_owned(), studio.alone(&[&first, &second])?)];
    let prompt = format!("photo of a {} next to a {}", first.name, second.name);
    let merged = STRENGTHS.map(|strength| {
        let merged = studio.merged(&[(&first, strength), (&second, 1.0)])?;
        studio.group(&prompt, &format!("{} at {strength}", first.name), &merged)
    });
    let title = format!("merged: {}", told(&studio.check(&first, &second)?));
    lines.push((title, merged.into_iter().collect::<Result<Vec<_>>>()?));

    let title = "two others alone, taught under one class noun".to_owned();
    lines.push((title, studio.alone(&[one, other])?));
    let merged = studio.merged(&[(one, 1.0), (other, 1.0)])?;
    let prompts = [
        format!("a {} {PLACE}", one.name),
        format!("a {} {PLACE}", other.name),
        format!("a {} next to a {}", one.name, other.name),
    ];
    let groups = prompts.map(|prompt| studio.group(&prompt, "", &merged));
    let title = format!("merged: {}", told(&studio.check(one, other)?));
    lines.push((title, groups.into_iter().collect::<Result<Vec<_>>>()?));

    for (title, _) in &lines {
        stdout::line(title)?;
    }
    render_groups(&lines)?
        .save(&args.out)
        .with_context(|| format!("{} cannot be written", args.out.display()))
}

/// The figures of two deltas' check.
fn told(report: &MergeReport) -> String {
    let pair = &report.pairs[0];
    let (error, alone) = (pair.constraint_error, pair.constraint_error_alone);
    let verdict = match pair.verdict() {
        Verdict::Ok => "ok",
        Verdict::Risky => "risky",
        Verdict::Conflict => "conflict",
    };
    format!(
        "check says {verdict} (constraint error {error:.2}, {alone:.2} alone; drift {:.2}; overlap {:.2})",
        pair.drift, pair.overlap
    )
}

impl Studio {
    fn read(&self, path: &Path) -> Result<Learnt> {
        let shown = path.display();
        let bytes = std::fs::read(path).with_context(|| format!("{shown} cannot be read"))?;
        let delta = Delta::from_safetensors(&bytes).with_context(|| shown.to_string())?;
        let name = delta
            .concepts
            .first()
            .map(|one| one.words.in_prompt())
            .context("the delta teaches nothing")?;
        Ok(Learnt { delta: Arc::new(delta), name })
    }

    fn solve(&self, parts: &[(&Learnt, f64)]) -> Result<Merge> {
        let pack = |(learnt, strength): &(&Learnt, f64)| -> Result<PackUse> {
            let pack = Arc::new(MergePack::build(&self.base, &learnt.delta, *strength)?);
            Ok(PackUse { pack, strength: *strength })
        };
        let packs: Vec<PackUse> = parts.iter().map(pack).collect::<Result<_>>()?;
        Ok(Merge::new(&self.statistics, &packs, &MergeRecipe::default())?)
    }

    fn check(&self, a: &Learnt, b: &Learnt) -> Result<MergeReport> {
        let merge = self.solve(&[(a, 1.0), (b, 1.0)])?;
        Ok(merge.report(&self.statistics, &MergeRecipe::default())?)
    }

    fn merged(&self, parts: &[(&Learnt, f64)]) -> Result<ConceptUse> {
        let delta = self.solve(parts)?.to_delta(&self.base, &MergeRecipe::default())?;
        Ok(ConceptUse { delta: Arc::new(delta), strength: 1.0 })
    }

    fn alone(&self, concepts: &[&Learnt]) -> Result<Vec<Group>> {
        let group = |learnt: &&Learnt| {
            let concept = ConceptUse { delta: learnt.delta.clone(), strength: 1.0 };
            self.group(&format!("a {} {PLACE}", learnt.name), "", &concept)
        };
        concepts.iter().map(group).collect()
    }

    /// A prompt's images.
    fn group(&self, prompt: &str, note: &str, concept: &ConceptUse) -> Result<Group> {
        let side = self.base.resolution();
        let request = |seed: u64| SampleRequest {
            prompt: prompt.to_owned(),
            negative_prompt: String::new(),
            concepts: vec![concept.clone()],
            seed,
            image_index: 0,
            num_inference_steps: 50,
            guidance_scale: 4.0,
            unconditional_strength: 1.0,
            guidance_interval: [0.0, 1.0],
            scheduler: crate::domain::sample::SchedulerName::Ddim,
            eta: 0.0,
            width: side,
            height: side,
            init: None,
            determinism: Determinism::default(),
        };
        let requests = SEEDS.map(request);
        let images: Vec<RgbImage> = sample(&self.base, &requests, &mut |_, _| Flow::Continue)?;
        Ok(Group { caption: prompt.to_owned(), note: note.to_owned(), images })
    }
}
