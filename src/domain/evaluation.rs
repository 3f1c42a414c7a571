//! An evaluation: images of one or several subjects on the same prompts, and figures of how well they show the concepts.

pub mod part;
pub mod prompt;
pub mod prompt_set;
pub mod report;

use std::ops::{Range, RangeInclusive};

use serde::{Deserialize, Serialize};

use self::prompt::EvaluationPrompt;
use super::composition::Composition;
use super::delta_use::DeltaUse;
use super::digest::Digest;
use super::evaluator_info::EvaluatorInfo;
use super::merge::MergeRecipe;
use super::sample::{SampleSettings, SampleTask};
use super::training::ImageSetRef;
use super::training::task::TaskConcept;
use super::version::TaskVersion;

/// The number of subjects of an evaluation.
pub const SUBJECTS: RangeInclusive<usize> = 1..=8;
/// The number of concepts whose photos the images are compared with.
pub const CONCEPTS: RangeInclusive<usize> = 1..=8;
/// The number of prompts, those of a named set included.
pub const PROMPTS: RangeInclusive<usize> = 1..=100;
/// The number of images of a subject on a prompt.
pub const IMAGES_PER_PROMPT: RangeInclusive<usize> = 1..=1000;
/// The paper's number of images of a prompt.
pub const DEFAULT_IMAGES_PER_PROMPT: usize = 50;
/// The most images of all subjects and prompts together.
pub const MAX_EVALUATED_IMAGES: usize = 20_000;
/// The most characters of a subject's name.
pub const MAX_NAME_CHARS: usize = 64;
/// The number of images in one held-out subset for KID.
pub const KID_SUBSETS: RangeInclusive<usize> = 2..=1000;

/// Images of one sample of an evaluation. Few, so that other samples wait a short time only for their places in the batch.
pub const IMAGES_PER_SAMPLE: usize = 4;

/// The task to compare subjects on prompts. Its images are those of samples, which are jobs of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationTask {
    #[serde(default)]
    pub version: TaskVersion,
    pub base_digest: Digest,
    /// Only a worker with this evaluator takes the job.
    pub evaluator_digest: Digest,
    pub evaluator: EvaluatorInfo,
    /// Whose photos the images are compared with.
    pub concepts: Vec<TaskConcept>,
    pub subjects: Vec<Subject>,
    pub prompts: Vec<EvaluationPrompt>,
    pub negative_prompt: String,
    /// How the images are generated; `n` is the number of images of a subject on a prompt.
    pub settings: SampleSettings,
    pub held_out: Option<HeldOut>,
}

/// What is evaluated: the base model, or the base model with deltas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    pub name: String,
    /// None for the base model.
    pub deltas: Vec<DeltaUse>,
    pub merge: MergeRecipe,
    /// How several concepts come into an image of each prompt; empty in tasks that only merge.
    #[serde(default)]
    pub compositions: Vec<Composition>,
}

/// Real images of the concept's class for KID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    pub set: ImageSetRef,
    /// `None` for the size of the smaller set, up to 1000.
    pub subset_size: Option<usize>,
}

/// A sample of an evaluation, and the place of its images.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationSample {
    pub subject: usize,
    pub prompt: usize,
    pub task: SampleTask,
}

impl Subject {
    /// Whether this is the base model alone.
    pub fn is_base(&self) -> bool {
        self.deltas.is_empty()
    }
}

impl EvaluationTask {
    /// The base model's place among the subjects, if it is one of them.
    pub fn base_subject(&self) -> Option<usize> {
        self.subjects.iter().position(Subject::is_base)
    }

    /// All images together.
    pub fn image_count(&self) -> usize {
        self.subjects.len() * self.prompts.len() * self.settings.n
    }

    /// The places of a prompt's images among the images of the seed: the same for every subject, and others for every
    /// prompt. So subjects are compared on the same noise, and prompts are independent of each other.
    pub fn indices(&self, prompt: usize) -> Range<usize> {
        let first = self.settings.first_index + prompt * self.settings.n;
        first..first + self.settings.n
    }

    /// The samples that make the images, in the order in which they should run: all subjects of a prompt, then the next
    /// prompt.
    pub fn samples(&self) -> Vec<EvaluationSample> {
        let mut samples = Vec::new();
        for prompt in 0..self.prompts.len() {
            for subject in 0..self.subjects.len() {
                let indices: Vec<usize> = self.indices(prompt).collect();
                for chunk in indices.chunks(IMAGES_PER_SAMPLE) {
                    let task = self.sample(subject, prompt, chunk[0], chunk.len());
                    samples.push(EvaluationSample { subject, prompt, task });
                }
            }
        }
        samples
    }

    fn sample(&self, subject: usize, prompt: usize, first_index: usize, n: usize) -> SampleTask {
        let (subject, place) = (&self.subjects[subject], prompt);
        let prompt = &self.prompts[place];
        SampleTask {
            version: TaskVersion::NEWEST,
            base_digest: self.base_digest.clone(),
            prompt: prompt.for_subject(subject).to_owned(),
            negative_prompt: self.negative_prompt.clone(),
            settings: SampleSettings { n, first_index, ..self.settings.clone() },
            deltas: subject.deltas.clone(),
            init: None,
            merge: subject.merge.clone(),
            composition: subject.compositions.get(place).cloned().unwrap_or_default(),
            warnings: Vec::new(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// Two subjects, two prompts, six images each.
    pub(crate) fn small_task() -> EvaluationTask {
        let delta = json!({ "delta_id": "dlt_00000000000000000000000000", "storage_key": "k", "sha256": "s", "strength": 1.0 });
        let task = json!({
            "base_digest": "b", "evaluator_digest": "e",
            "evaluator": { "name": "clip", "digest": "e", "projection_dim": 2, "max_text_tokens": 32, "image_size": 64, "has_image_settings": false },
            "concepts": [{ "concept_id": "cpt_00000000000000000000000000", "handle": "rex", "modifier_token": "<rex>", "class_noun": "dog", "images": [] }],
            "subjects": [
                { "name": "base", "deltas": [], "merge": MergeRecipe::default() },
                { "name": "rex", "deltas": [delta], "merge": MergeRecipe::default() },
            ],
            "prompts": [
                { "text": "a <rex> dog", "plain": "a dog", "names_concept": true },
                { "text": "a cat", "plain": "a cat", "names_concept": false },
            ],
            "negative_prompt": "", "held_out": null,
            "settings": {
                "n": 6, "first_index": 0, "seed": 1, "num_inference_steps": 2, "guidance_scale": 6.0,
                "unconditional_strength": 1.0, "guidance_interval": [0.0, 1.0], "scheduler": "ddpm", "eta": 0.0,
                "width": 64, "height": 64, "determinism": "strict", "preview_every": null,
            },
        });
        serde_json::from_value(task).unwrap()
    }

    #[test]
    fn samples_cover_every_image_once_and_subjects_share_the_noise() {
        let task = small_task();

        let samples = task.samples();

        let of = |subject, prompt| -> Vec<usize> {
            let its = samples.iter().filter(|one| (one.subject, one.prompt) == (subject, prompt));
            its.flat_map(|one| one.task.settings.indices()).collect()
        };
        assert_eq!(of(0, 0), (0..6).collect::<Vec<_>>());
        assert_eq!(of(1, 1), (6..12).collect::<Vec<_>>());
        assert_eq!(of(0, 1), of(1, 1));
        assert_eq!(
            samples.iter().map(|one| one.task.settings.n).sum::<usize>(),
            task.image_count()
        );
    }

    #[test]
    fn the_base_model_is_not_asked_for_tokens_that_it_does_not_have() {
        let samples = small_task().samples();

        let prompt =
            |subject| &samples.iter().find(|one| one.subject == subject).unwrap().task.prompt;
        assert_eq!((prompt(0).as_str(), prompt(1).as_str()), ("a dog", "a <rex> dog"));
    }
}
