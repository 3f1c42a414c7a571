//! A job: work that outlives the request that asked for it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::code::Code;
use super::id::{JobId, MergeId, SampleId, TrainingId};
use super::merge::MergeTask;
use super::sample::SampleTask;
use super::training::TrainingTask;

/// The kinds of work: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum JobKind {
    Training,
    Merge,
    Sample,
}

impl JobKind {
    pub const ALL: [Self; 3] = [Self::Training, Self::Merge, Self::Sample];

    /// The kind as it is spelled in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Merge => "merge",
            Self::Sample => "sample",
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
}

impl Task {
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Training(_) => JobKind::Training,
            Self::Merge(_) => JobKind::Merge,
            Self::Sample(_) => JobKind::Sample,
        }
    }

    /// Which base model it is for.
    pub fn base_digest(&self) -> &str {
        match self {
            Self::Training(task) => &task.base_digest,
            Self::Merge(task) => &task.base_digest,
            Self::Sample(task) => &task.base_digest,
        }
    }

    /// The most rows that it takes in one call of the UNet, which count against a worker's row budget: those of all
    /// pictures of a sample. Other kinds of work have the device in turns, one job each.
    pub fn rows(&self) -> usize {
        match self {
            Self::Training(_) | Self::Merge(_) => 1,
            Self::Sample(task) => task.settings.n * task.settings.rows_per_image(),
        }
    }
}

/// The published id of a job: its UUID under the prefix of its kind.
pub fn published_id(job: JobId, kind: JobKind) -> String {
    match kind {
        JobKind::Training => TrainingId::from(job).to_string(),
        JobKind::Merge => MergeId::from(job).to_string(),
        JobKind::Sample => SampleId::from(job).to_string(),
    }
}

/// Where a job stands in the catalog.
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

/// Where a job stands as clients are told: also says that a running one has been asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    Queued,
    Running,
    /// Asked to stop; takes effect at the next step.
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

/// What a running job is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Phase {
    /// Reads objects from the store.
    Fetching,
    /// Encodes photos and texts, once.
    Encoding,
    /// Takes training steps.
    Optimizing,
    /// Takes denoising steps.
    Denoising,
    /// Solves for the merged delta.
    Merging,
    /// Writes the result.
    Storing,
}

/// How far a running job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    pub total_steps: usize,
    /// Loss of the last step, smoothed over the last twenty; trainings only.
    pub loss: Option<f64>,
    pub steps_per_second: Option<f64>,
    pub eta_seconds: Option<f64>,
    /// The pictures that have a preview by now; samples with `preview_every` only.
    #[serde(default)]
    pub previews: Vec<PreviewStep>,
}

/// A picture that has a preview.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewStep {
    /// Which of the pictures of its seed.
    pub index: usize,
    /// Steps done when the preview was made.
    pub step: usize,
}

/// What a picture looks like so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Which of the pictures of its seed.
    pub index: i32,
    /// Steps done when it was made.
    pub step: i32,
    pub png: Vec<u8>,
}

/// One point of a loss curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Metric {
    pub step: i32,
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
}

/// Why a job failed: the same problem object as in an HTTP error, kept with the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    pub title: String,
    pub code: Code,
    pub detail: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

/// A job as the catalog has it, of any kind or, with the type of its task, of one.
#[derive(Clone, Debug)]
pub struct Job<T = Task> {
    pub job_id: JobId,
    pub task: T,
    pub state: JobState,
    pub cancel_requested: bool,
    pub attempts: i32,
    pub phase: Option<Phase>,
    pub progress: Option<Progress>,
    pub error: Option<Failure>,
    /// Jobs of its kind that wait before it; only while it waits itself.
    pub queue_position: Option<i64>,
    /// Grows with every change; also the number of the event that told of it.
    pub revision: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    /// When the last attempt took its first denoising step; samples that have succeeded only.
    pub first_step_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
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
            attempts: self.attempts,
            phase: self.phase,
            progress: self.progress,
            error: self.error,
            queue_position: self.queue_position,
            revision: self.revision,
            created_at: self.created_at,
            updated_at: self.updated_at,
            started_at: self.started_at,
            first_step_at: self.first_step_at,
            finished_at: self.finished_at,
        })
    }
}

/// A job in the hands of a worker.
#[derive(Clone, Debug)]
pub struct LeasedJob {
    pub job_id: JobId,
    pub task: Task,
    /// What it takes of a worker's row budget: [`Task::rows`], or all of it if it has to go alone.
    pub rows: usize,
    pub attempts: i32,
    /// Counts the leases: whatever an earlier holder still writes carries a smaller number, and is ignored.
    pub fence: i64,
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
