//! A job: work that outlives the request that asked for it.

pub mod attempt;
pub mod cost;
pub mod forecast;
pub mod named;
pub mod schedule;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::attempt::Attempt;
use self::schedule::Priority;
use super::code::Code;
use super::compression::CompressionTask;
use super::digest::Digest;
use super::evaluation::EvaluationTask;
use super::id::{CompressionId, EvaluationId, JobId, MergeId, ProjectId, SampleId, TrainingId};
use super::merge::{MergeReport, MergeTask};
use super::record::Labels;
use super::sample::SampleTask;
use super::training::task::TrainingTask;
use super::warning::Warning;

/// The default limit of queued jobs of one kind.
pub const DEFAULT_QUEUE_LIMIT: usize = 1000;

/// How long a job stays with a worker that has stopped renewing its lease.
pub const LEASE: Duration = Duration::from_secs(15);

/// The kinds of jobs: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum JobKind {
    Training,
    Merge,
    Sample,
    Evaluation,
    Compression,
}

impl JobKind {
    pub const ALL: [Self; 5] =
        [Self::Training, Self::Merge, Self::Sample, Self::Evaluation, Self::Compression];

    /// How many attempts in a row may get no further before a job fails. A training reads and encodes its images for a while
    /// before its first checkpoint, so more of its attempts end by chance.
    pub fn max_attempts(self) -> i32 {
        match self {
            Self::Training => 5,
            Self::Merge | Self::Sample | Self::Evaluation | Self::Compression => 3,
        }
    }

    /// The kind as it is spelled in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Merge => "merge",
            Self::Sample => "sample",
            Self::Evaluation => "evaluation",
            Self::Compression => "compression",
        }
    }
}

/// What a job has to do, complete: a worker needs nothing but this and the objects that it names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Task {
    Training(TrainingTask),
    Merge(MergeTask),
    Sample(SampleTask),
    Evaluation(EvaluationTask),
    Compression(CompressionTask),
}

impl Task {
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Training(_) => JobKind::Training,
            Self::Merge(_) => JobKind::Merge,
            Self::Sample(_) => JobKind::Sample,
            Self::Evaluation(_) => JobKind::Evaluation,
            Self::Compression(_) => JobKind::Compression,
        }
    }

    /// Which base model it is for.
    pub fn base_digest(&self) -> &Digest {
        match self {
            Self::Training(task) => &task.base_digest,
            Self::Merge(task) => &task.base_digest,
            Self::Sample(task) => &task.base_digest,
            Self::Evaluation(task) => &task.base_digest,
            Self::Compression(task) => &task.base_digest,
        }
    }

    /// What the task costs of a worker's batch, in elements of the base model's own size. For a sample this is the cost
    /// of all images. Jobs of other kinds run one at a time and cost one.
    ///
    /// - `native_size`: the side that the base model was trained on, in pixels
    pub fn batch_elements(&self, native_size: usize) -> usize {
        match self {
            Self::Training(_) | Self::Merge(_) | Self::Evaluation(_) | Self::Compression(_) => 1,
            Self::Sample(task) => task.settings.n * task.elements_per_image(native_size),
        }
    }
}

/// The published id of a job: its UUID under the prefix of its kind.
pub fn published_id(job: JobId, kind: JobKind) -> String {
    match kind {
        JobKind::Training => TrainingId::from(job).to_string(),
        JobKind::Merge => MergeId::from(job).to_string(),
        JobKind::Sample => SampleId::from(job).to_string(),
        JobKind::Evaluation => EvaluationId::from(job).to_string(),
        JobKind::Compression => CompressionId::from(job).to_string(),
    }
}

/// The state of a job in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum JobState {
    Queued,
    Running,
    Succeeded,
    Failed,
    Canceled,
}

/// The status of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    Queued,
    Running,
    /// Running, and asked to stop at the next step.
    Canceling,
    Succeeded,
    Failed,
    Canceled,
}

impl JobStatus {
    pub fn new(state: JobState, cancel_requested: bool) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Running if cancel_requested => Self::Canceling,
            JobState::Running => Self::Running,
            JobState::Succeeded => Self::Succeeded,
            JobState::Failed => Self::Failed,
            JobState::Canceled => Self::Canceled,
        }
    }

    /// Nothing about the job will change any more.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Queued | Self::Running | Self::Canceling => false,
            Self::Succeeded | Self::Failed | Self::Canceled => true,
        }
    }
}

/// What a running job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Phase {
    /// Reads objects from the store.
    Fetching,
    /// Generates class images. Trainings with generated class images only.
    Regularizing,
    /// Encodes images and texts, once.
    Encoding,
    /// Takes training steps.
    Optimizing,
    /// Takes denoising steps.
    Denoising,
    /// Solves for the merged delta.
    Merging,
    /// Decomposes what a delta changes.
    Compressing,
    /// Computes features of images and figures from them.
    Scoring,
    /// Writes the result.
    Storing,
}

/// How far a running job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// The number of steps done. For an evaluation that is queued, the number of its samples that have ended.
    pub step: usize,
    /// The number of steps in all.
    pub total_steps: usize,
    /// The loss, averaged over the last twenty steps. Trainings only.
    pub loss: Option<f64>,
    /// The current speed.
    pub steps_per_second: Option<f64>,
    /// The estimated time until the last step, in seconds.
    pub eta_seconds: Option<f64>,
    /// The images that have a preview. Samples with `preview_every` only.
    #[serde(default)]
    pub previews: Vec<PreviewStep>,
}

/// An image that has a preview.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewStep {
    /// The index of the image among the images of its seed.
    pub index: usize,
    /// The number of steps done when the preview was made.
    pub step: usize,
}

/// What an image looks like so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The index of the image among the images of its seed.
    pub index: i32,
    /// The number of steps done when the preview was made.
    pub step: i32,
    pub png: Vec<u8>,
}

/// One point of a loss curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Metric {
    /// The step, counted from 1.
    pub step: i32,
    /// The loss of this step.
    pub loss: f64,
    /// The norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
}

/// Why a job has failed, kept with the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The kind of failure, in a few words.
    pub title: String,
    pub code: Code,
    /// What went wrong and, where the client can correct it, how.
    #[serde(serialize_with = "without_nul")]
    pub detail: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

/// Postgres takes no U+0000, and a damaged object can have one in a name that an error repeats.
fn without_nul<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match text.contains('\0') {
        true => serializer.serialize_str(&text.replace('\0', "\u{fffd}")),
        false => serializer.serialize_str(text),
    }
}

/// A job as the catalog has it, of any kind or, with the type of its task, of one.
#[derive(Clone, Debug)]
pub struct Job<T = Task> {
    pub job_id: JobId,
    pub task: T,
    pub state: JobState,
    pub cancel_requested: bool,
    pub priority: Priority,
    pub attempts: i32,
    pub phase: Option<Phase>,
    pub progress: Option<Progress>,
    pub error: Option<Failure>,
    /// How well a merge went; merges that have succeeded only.
    pub merge_report: Option<MergeReport>,
    /// What the request was accepted with.
    pub warnings: Vec<Warning>,
    /// The attempts that ended without ending the job as succeeded or canceled; empty if they were not looked up.
    pub previous_attempts: Vec<Attempt>,
    /// The number of jobs of its kind before it, while it is queued.
    pub queue_position: Option<i64>,
    /// Increases with every change. Also the number of the event that reports the change.
    pub revision: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub start_before: Option<DateTime<Utc>>,
    pub finish_before: Option<DateTime<Utc>>,
    /// When the last attempt took its first step of training or denoising.
    pub first_step_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// What the client has attached to it.
    pub labels: Labels,
}

impl<T> Job<T> {
    pub fn status(&self) -> JobStatus {
        JobStatus::new(self.state, self.cancel_requested)
    }

    /// The same job with its task as another type; `None` if it has none of that type.
    pub fn with_task<U>(self, as_other: impl FnOnce(T) -> Option<U>) -> Option<Job<U>> {
        Some(Job {
            job_id: self.job_id,
            task: as_other(self.task)?,
            state: self.state,
            cancel_requested: self.cancel_requested,
            priority: self.priority,
            attempts: self.attempts,
            phase: self.phase,
            progress: self.progress,
            error: self.error,
            queue_position: self.queue_position,
            revision: self.revision,
            created_at: self.created_at,
            updated_at: self.updated_at,
            started_at: self.started_at,
            start_before: self.start_before,
            finish_before: self.finish_before,
            first_step_at: self.first_step_at,
            finished_at: self.finished_at,
            labels: self.labels,
            merge_report: self.merge_report,
            warnings: self.warnings,
            previous_attempts: self.previous_attempts,
        })
    }
}

/// A job that a worker has leased.
#[derive(Clone, Debug)]
pub struct LeasedJob {
    pub job_id: JobId,
    /// Whose job it is, and so whose its results are.
    pub project_id: ProjectId,
    pub task: Task,
    /// What it costs of a worker's batch: [`Task::batch_elements`], or all of it if the job has to run alone.
    pub batch_elements: usize,
    /// Counts every lease.
    pub attempts: i32,
    /// Attempts in a row that got no further, with this one.
    pub barren_attempts: i32,
    /// The number of this lease. What an earlier holder still writes has a smaller number and is ignored.
    pub fence: i64,
    /// The id of the request that asked for it.
    pub request_id: Option<String>,
    /// The trace that the request was part of, as W3C's `traceparent`.
    pub traceparent: Option<String>,
}

/// What happened to a job, as it is replayed to listeners.
#[derive(Clone, Debug)]
pub struct JobEvent {
    /// The job's revision that this event made.
    pub seq: i64,
    pub status: JobStatus,
    pub phase: Option<Phase>,
    pub progress: Option<Progress>,
    pub error: Option<Failure>,
    pub created_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::regularization::{Regularization, Selection};
    use crate::domain::version::TaskVersion;

    /// A training as the program queued it before tasks had versions.
    fn early_training() -> serde_json::Value {
        json!({
            "kind": "training", "base_digest": "a", "preset": "paper", "class_images": "auto", "seed": 7,
            "concepts": [{
                "concept_id": "cpt_00000000000000000000000000", "handle": "rex", "modifier_token": "<rex>",
                "class_noun": "dog",
                "images": [{ "image_id": "img_00000000000000000000000000", "storage_key": "k" }],
            }],
            "recipe": {
                "max_train_steps": 250, "instance_batch_size": 4, "class_batch_size": 4, "num_class_images": 200,
                "learning_rate": 8e-5, "token_learning_rate_factor": 1.0, "learning_rate_schedule": "cosine",
                "learning_rate_warmup_steps": 20, "prior_loss_weight": 1.0, "weight_decay": 1e-2,
                "max_grad_norm": 1.0, "instance_templates": ["photo of a {}"], "size_augmentation": true,
                "small_prefixes": [], "large_prefixes": [], "horizontal_flip": true, "detach_first_token": true,
                "initializer_tokens": ["ktn"],
            },
        })
    }

    #[test]
    fn a_task_from_before_versions_still_reads() {
        let Task::Training(task) = serde_json::from_value(early_training()).unwrap() else {
            panic!("a training");
        };

        assert_eq!(task.version, TaskVersion::default());
        assert_eq!(task.recipe.lr_warmup_steps, 20);
        assert_eq!(task.concepts[0].words.in_prompt(), "<rex> dog");
    }

    #[test]
    fn class_images_of_earlier_tasks_mean_what_they_meant() {
        let read = |changes: serde_json::Value| {
            let mut task = early_training();
            let fields = task.as_object_mut().unwrap();
            fields.extend(changes.as_object().unwrap().clone());
            match serde_json::from_value(task).unwrap() {
                Task::Training(task) => task.regularization,
                other => panic!("{other:?}"),
            }
        };
        let set = json!({ "digest": "d", "storage_key": "image-sets/d.zip", "count": 3 });

        let by_noun = |set| Regularization::Set { set, select: Selection::ClassNoun };
        assert_eq!(read(json!({})), by_noun(None));
        assert_eq!(
            read(json!({ "class_image_set": set })),
            by_noun(Some(serde_json::from_value(set).unwrap()))
        );
        assert_eq!(read(json!({ "class_images": "none" })), Regularization::None);
        assert_eq!(
            read(json!({ "regularization": { "source": "none" } })),
            Regularization::None,
            "the newer field counts"
        );
    }

    #[test]
    fn a_task_keeps_its_flat_form() {
        let task: Task = serde_json::from_value(early_training()).unwrap();

        let stored = serde_json::to_value(&task).unwrap();

        assert_eq!(stored["concepts"][0]["class_noun"], "dog");
        assert_eq!(
            (&stored["version"], &stored["recipe"]["lr_scheduler"]),
            (&json!(1), &json!("cosine"))
        );
        assert_eq!(serde_json::from_value::<Task>(stored).unwrap(), task);
    }

    #[test]
    fn a_failure_can_be_stored_whatever_its_detail_repeats() {
        let detail = "object `a\0b` is damaged".to_owned();
        let failure =
            Failure { title: "t".to_owned(), code: Code::ObjectDamaged, detail, retryable: false };

        let stored = serde_json::to_value(&failure).unwrap();

        assert_eq!(stored["detail"], "object `a\u{fffd}b` is damaged");
    }

    #[test]
    fn a_task_of_a_newer_program_says_which_program_is_needed() {
        let mut task = early_training();
        task["version"] = json!(6);

        let error = serde_json::from_value::<Task>(task).unwrap_err().to_string();

        assert!(error.contains("version 6 is unknown") && error.contains("newer"), "{error}");
    }
}
