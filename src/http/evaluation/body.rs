//! Bodies of evaluations.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::evaluation::{NewEvaluation, NewHeldOut, NewPrompt, NewSubject};
use crate::app::job::Evaluation;
use crate::app::queue::JobOptions;
use crate::app::sample::SampleOptions;
use crate::domain::composition::Composition;
use crate::domain::composition::options::{CompositionMethod, CompositionOptions};
use crate::domain::concept::{ConceptRef, Handle};
use crate::domain::delta_use::ConceptUse;
use crate::domain::digest::Digest;
use crate::domain::evaluation::prompt::EvaluationPrompt;
use crate::domain::evaluation::prompt_set::PromptSet;
use crate::domain::evaluation::report::EvaluationReport;
use crate::domain::evaluation::{EvaluationTask, Subject};
use crate::domain::evaluator_info::EvaluatorInfo;
use crate::domain::id::{ConceptId, EvaluationId};
use crate::domain::job::schedule::{Priority, Schedule};
use crate::domain::merge::MergeRecipe;
use crate::domain::merge::options::MergeOptions;
use crate::domain::record::{ExternalId, Labels, Metadata};
use crate::domain::sample::{Determinism, SampleSettings, SchedulerName};
use crate::domain::training::task::TaskConcept;
use crate::http::job::{JobBody, JobResource};
use crate::http::sample::DeltaUseBody;

/// An evaluation to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartEvaluation {
    /// What to evaluate: 1 to 8 subjects.
    #[schema(min_items = 1, max_items = 8)]
    subjects: Vec<StartSubject>,
    /// Ids or handles of the concepts whose photos the images are compared with, at most 8. Defaults to those that the
    /// subjects' deltas contain. Every subject other than the base model has to contain each of them.
    #[schema(value_type = Option<Vec<String>>, max_items = 8)]
    concepts: Option<Vec<ConceptRef>>,
    /// The prompts. The first `{}` of a prompt stands for the name of the first concept, the second for that of the second;
    /// modifier tokens can also be written out. The base model gets the prompt without modifier tokens. Prompts that name no
    /// concept show how far the concepts leak into other images. A prompt that names two to four concepts is scored by parts of
    /// the image as well (`composition`). At most 100, with those of `prompt_set`.
    #[schema(max_items = 100, examples(json!(["photo of a {} on the beach", "photo of a dog",
        { "text": "photo of a {} next to a cake", "things": 2 }])))]
    prompts: Option<Vec<StartPrompt>>,
    /// A named set of twenty prompts, for the kind of thing that the concept is. They follow `prompts`.
    prompt_set: Option<PromptSet>,
    /// The number of images of each subject on each prompt, from 1 to 1000. Defaults to 50. All together are at most 20000.
    #[schema(minimum = 1, maximum = 1000, default = 50)]
    images_per_prompt: Option<usize>,
    /// What the images should not show. Defaults to the empty prompt.
    negative_prompt: Option<String>,
    /// Random seed, from 0 to 2⁵³ − 1. The server chooses one if omitted. All subjects get the same noise.
    #[schema(maximum = 9007199254740991_u64)]
    seed: Option<u64>,
    /// The number of denoising steps. Defaults to 50.
    #[schema(minimum = 1, default = 50)]
    num_inference_steps: Option<usize>,
    /// Weight of the prompt against the negative prompt, from 0 to 100. Defaults to 6.
    #[schema(minimum = 0, maximum = 100, default = 6.0)]
    guidance_scale: Option<f64>,
    /// As for a sample. Defaults to 1.
    #[schema(minimum = 0, maximum = 1, default = 1.0)]
    unconditional_strength: Option<f64>,
    /// As for a sample. Defaults to `[0, 1]`.
    #[schema(min_items = 2, max_items = 2)]
    guidance_interval: Option<[f64; 2]>,
    /// The scheduler. Defaults to `ddpm`.
    scheduler: Option<SchedulerName>,
    /// As for a sample. Defaults to that of the base model.
    #[schema(minimum = 0, maximum = 1)]
    eta: Option<f64>,
    /// Width in pixels. Defaults to the base model's `native_size`.
    width: Option<usize>,
    /// Height in pixels. Defaults to the base model's `native_size`.
    height: Option<usize>,
    /// As for a sample.
    determinism: Option<Determinism>,
    /// Real images of the concept's class, to measure the kernel inception distance from.
    held_out: Option<StartHeldOut>,
    /// Whether to answer only what the request would make: 200 with the resolved request, an estimate of its time and every
    /// warning. Nothing is made. Defaults to false.
    pub(super) dry_run: Option<bool>,
    /// How urgent it is. Within one kind of job, all jobs of a higher priority run first. Defaults to `normal`.
    #[schema(default = "normal")]
    priority: Option<Priority>,
    /// The job fails with `deadline_exceeded` if no worker has started it within so many seconds, 1 to 31536000 (a year).
    #[schema(minimum = 1, maximum = 31_536_000)]
    start_within_seconds: Option<u64>,
    /// The job fails with `deadline_exceeded` if it has not ended within so many seconds, 1 to 31536000 (a year).
    #[schema(minimum = 1, maximum = 31_536_000)]
    finish_within_seconds: Option<u64>,
    /// Texts of your own, to be returned with the job and never interpreted: at most 16, with keys of up to 64 and values of up to
    /// 512 characters. Defaults to none.
    metadata: Option<Metadata>,
    /// Your own id for the job, of up to 255 characters. A second job of this kind with the same one is refused with
    /// `external_id_taken`, which names the first. Defaults to none.
    external_id: Option<ExternalId>,
}

impl StartEvaluation {
    pub(super) fn options(&self) -> JobOptions {
        let metadata = self.metadata.clone().unwrap_or_default();
        let labels = Labels { metadata, external_id: self.external_id.clone() };
        JobOptions { schedule: self.schedule(), labels }
    }

    fn schedule(&self) -> Schedule {
        Schedule {
            priority: self.priority.unwrap_or_default(),
            start_within_seconds: self.start_within_seconds,
            finish_within_seconds: self.finish_within_seconds,
        }
    }
}

/// A prompt: its text, or an object that also says how many things the image should show.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a prompt is a text, or an object with `text` and `things`")]
pub(crate) enum StartPrompt {
    Text(String),
    WithThings(PromptWithThings),
}

/// A prompt with things that are no concepts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PromptWithThings {
    /// The prompt.
    text: String,
    /// The number of things that the image should show, concepts and others, from 1 to 4. Defaults to the number of concepts
    /// that the prompt names. From 2 on, each concept is scored in the part of the image that it has to itself.
    #[schema(minimum = 1, maximum = 4)]
    things: Option<usize>,
}

/// What to evaluate: the base model, or concepts with their deltas.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartSubject {
    /// What the subject is called in the report, at most 64 characters. Defaults to the handles of its concepts.
    name: Option<String>,
    /// Evaluate the base model alone. With it among the subjects, the report has `share`.
    #[serde(default)]
    base: bool,
    /// Concepts with the deltas and strengths to use, as for a sample. A merged delta is named by `delta`.
    #[schema(max_items = 8)]
    concepts: Option<Vec<ConceptUse>>,
    /// How several deltas are merged. Not allowed if fewer than two take part.
    merge: Option<MergeOptions>,
    /// How several concepts come into one image, as for a sample.
    composition: Option<CompositionOptions>,
}

/// Real images to measure the kernel inception distance from.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartHeldOut {
    /// Id or digest of an image set.
    set: String,
    /// Images of each side in one subset, from 2 to 1000. Defaults to the size of the smaller side, at most 1000.
    #[schema(minimum = 2, maximum = 1000)]
    subset_size: Option<usize>,
}

impl From<StartEvaluation> for NewEvaluation {
    fn from(body: StartEvaluation) -> Self {
        Self {
            subjects: body.subjects.into_iter().map(NewSubject::from).collect(),
            concepts: body.concepts.unwrap_or_default(),
            prompts: body.prompts.into_iter().flatten().map(NewPrompt::from).collect(),
            prompt_set: body.prompt_set,
            images_per_prompt: body.images_per_prompt,
            negative_prompt: body.negative_prompt,
            options: SampleOptions {
                n: None,
                first_index: None,
                seed: body.seed,
                num_inference_steps: body.num_inference_steps,
                guidance_scale: body.guidance_scale,
                unconditional_strength: body.unconditional_strength,
                guidance_interval: body.guidance_interval,
                scheduler: body.scheduler,
                eta: body.eta,
                width: body.width,
                height: body.height,
                preview_every: None,
                determinism: body.determinism,
            },
            held_out: body
                .held_out
                .map(|StartHeldOut { set, subset_size }| NewHeldOut { set, subset_size }),
        }
    }
}

impl From<StartPrompt> for NewPrompt {
    fn from(body: StartPrompt) -> Self {
        match body {
            StartPrompt::Text(text) => Self { text, things: None },
            StartPrompt::WithThings(PromptWithThings { text, things }) => Self { text, things },
        }
    }
}

impl From<StartSubject> for NewSubject {
    fn from(body: StartSubject) -> Self {
        let StartSubject { name, base, concepts, merge, composition } = body;
        Self { name, base, concepts: concepts.unwrap_or_default(), merge, composition }
    }
}

/// An evaluation and its state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EvaluationBody {
    id: EvaluationId,
    #[schema(value_type = String, examples("evaluation"))]
    object: &'static str,
    #[serde(flatten)]
    resolved: ResolvedEvaluation,
    /// What the evaluation has found, once it has succeeded.
    report: Option<EvaluationReport>,
    /// Its files.
    files: EvaluationFiles,
    #[serde(flatten)]
    job: JobBody,
}

/// What an evaluation compares, with every default filled in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResolvedEvaluation {
    /// What is evaluated.
    subjects: Vec<SubjectBody>,
    /// Whose photos the images are compared with.
    concepts: Vec<EvaluatedConcept>,
    /// The prompts, with the concepts' names filled in.
    prompts: Vec<EvaluationPrompt>,
    negative_prompt: String,
    /// The complete settings, with every default filled in. `n` is the number of images of each subject on each prompt; each
    /// prompt takes the next `n` images of the seed.
    settings: SampleSettings,
    /// The images that KID compares with.
    held_out: Option<HeldOutBody>,
    /// The model that the features come from.
    evaluator: EvaluatorInfo,
}

/// What is evaluated.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SubjectBody {
    /// Its name in the report.
    name: String,
    /// The deltas that take part; none for the base model.
    deltas: Vec<DeltaUseBody>,
    /// How the deltas are merged. Null if they are not.
    merge: Option<MergeRecipe>,
    /// How the concepts come into one image. Null if there is nothing to compose.
    composition: Option<CompositionMethod>,
}

/// A concept whose photos images are compared with, as it was when the evaluation was requested.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EvaluatedConcept {
    id: ConceptId,
    handle: Handle,
    /// The number of photos.
    photo_count: usize,
}

/// The images that KID compares with.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeldOutBody {
    /// The digest of the image set.
    digest: Digest,
    /// The number of images.
    count: usize,
    /// Null for the size of the smaller side, at most 1000.
    subset_size: Option<usize>,
}

/// Paths of an evaluation's files.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EvaluationFiles {
    /// The contact sheet, once the evaluation has succeeded.
    sheet: Option<String>,
    /// Text- against image-alignment, once the evaluation has succeeded.
    alignment: Option<String>,
    /// Loss curves of the trainings whose deltas are evaluated.
    loss: String,
}

impl From<Subject> for SubjectBody {
    fn from(subject: Subject) -> Self {
        let method =
            subject.compositions.first().map_or(CompositionMethod::Merge, Composition::method);
        let (is_merged, are_several) =
            (method == CompositionMethod::Merge, subject.deltas.len() > 1);
        Self {
            name: subject.name,
            merge: (is_merged && are_several).then_some(subject.merge),
            composition: (!is_merged || are_several).then_some(method),
            deltas: subject.deltas.into_iter().map(DeltaUseBody::from).collect(),
        }
    }
}

impl From<TaskConcept> for EvaluatedConcept {
    fn from(concept: TaskConcept) -> Self {
        Self { id: concept.concept_id, handle: concept.handle, photo_count: concept.images.len() }
    }
}

impl EvaluationFiles {
    fn new(id: EvaluationId, has_report: bool) -> Self {
        let path = |name: &str| format!("/v1/evaluations/{id}/{name}");
        Self {
            sheet: has_report.then(|| path("sheet.png")),
            alignment: has_report.then(|| path("alignment.svg")),
            loss: path("loss.svg"),
        }
    }
}

impl JobResource for EvaluationTask {
    type Body = EvaluationBody;
    type Resolved = ResolvedEvaluation;

    fn body(Evaluation { job, outcome, .. }: Evaluation) -> EvaluationBody {
        let id = EvaluationId::from(job.job_id);
        EvaluationBody {
            id,
            object: "evaluation",
            files: EvaluationFiles::new(id, outcome.is_some()),
            report: outcome,
            job: JobBody::from(&job),
            resolved: job.task.into(),
        }
    }

    fn resolved(task: Self) -> ResolvedEvaluation {
        task.into()
    }
}

impl From<EvaluationTask> for ResolvedEvaluation {
    fn from(task: EvaluationTask) -> Self {
        Self {
            subjects: task.subjects.into_iter().map(SubjectBody::from).collect(),
            concepts: task.concepts.into_iter().map(EvaluatedConcept::from).collect(),
            prompts: task.prompts,
            negative_prompt: task.negative_prompt,
            settings: task.settings,
            held_out: task.held_out.map(|held_out| HeldOutBody {
                digest: held_out.set.digest,
                count: held_out.set.count,
                subset_size: held_out.subset_size,
            }),
            evaluator: task.evaluator,
        }
    }
}
