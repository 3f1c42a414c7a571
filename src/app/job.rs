//! What trainings, merges, samples, evaluations and compressions have in common as jobs: find, list, cancel, wait, follow.

mod reading;
mod waiting;

use std::collections::HashMap;
use std::fmt::Display;

use serde::de::DeserializeOwned;

use super::{App, Caller, Precondition, Refusal};
use crate::db;
use crate::domain::checkpoint::Resumption;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::evaluation::report::EvaluationReport;
use crate::domain::id::{DeltaId, EvaluationId, JobId, MergeId, SampleId, TrainingId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::job::{Job, JobKind, JobState, JobStatus, Task};
use crate::domain::merge::MergeTask;
use crate::domain::page::{Page, PageOf};
use crate::domain::record::ExternalId;
use crate::domain::sample::SampleTask;
use crate::domain::search::SearchText;
use crate::domain::training::task::TrainingTask;
use crate::domain::training_report::TrainingReport;

/// A kind of job, by the type of its task: its names and its results.
pub trait JobNoun: Clone + Sized + Send + Sync + 'static {
    const KIND: JobKind;
    /// The published id. It has the same UUID as the job.
    type Id: Copy + Display + From<JobId> + Into<JobId> + Send + Sync;
    /// The results of a job that has succeeded; the default for one that has not.
    type Outcome: Clone + Default + Send + Sync;

    /// The task as one of this kind; `None` if it is of another.
    fn from_task(task: Task) -> Option<Self>;

    fn into_task(self) -> Task;

    /// The jobs of this kind that are being asked for.
    fn reading(app: &App) -> &Reading<Self>;

    /// Looks up what these jobs have made, all of which have succeeded.
    fn outcomes(
        app: &App,
        jobs: &[JobId],
    ) -> impl Future<Output = Result<HashMap<JobId, Self::Outcome>, Refusal>> + Send;
}

pub use reading::Reading;
pub(super) use reading::Readings;

/// A job and what it has made.
#[derive(Clone, Debug)]
pub struct Tracked<N: JobNoun> {
    pub job: Job<N>,
    pub outcome: N::Outcome,
    /// Trainings only.
    pub resumption: Resumption,
}

impl<N: JobNoun> Tracked<N> {
    pub fn id(&self) -> N::Id {
        self.job.job_id.into()
    }
}

/// Which jobs of a list are wanted.
#[derive(Clone, Debug, Default)]
pub struct WantedJobs<'a> {
    pub status: Option<JobStatus>,
    /// The id or handle of a concept that they use.
    pub concept: Option<&'a str>,
    pub external_id: Option<ExternalId>,
    /// Words of a sample's prompt.
    pub prompt: SearchText,
    /// The seed of a sample.
    pub seed: Option<u64>,
}

/// What a training has made.
#[derive(Clone, Debug, Default)]
pub struct TrainingOutcome {
    pub delta: Option<DeltaId>,
    /// Trainings of earlier versions have none.
    pub report: Option<TrainingReport>,
}

/// A training and, once it has succeeded, its delta.
pub type Training = Tracked<TrainingTask>;

/// A merge and, once it has succeeded, its delta.
pub type Merge = Tracked<MergeTask>;

/// A sample and, once it has succeeded, its images.
pub type Sample = Tracked<SampleTask>;

/// An evaluation and, once it has succeeded, its report.
pub type Evaluation = Tracked<EvaluationTask>;

impl JobNoun for TrainingTask {
    const KIND: JobKind = JobKind::Training;
    type Id = TrainingId;
    type Outcome = TrainingOutcome;

    fn from_task(task: Task) -> Option<Self> {
        match task {
            Task::Training(task) => Some(task),
            Task::Merge(_) | Task::Sample(_) | Task::Evaluation(_) | Task::Compression(_) => None,
        }
    }

    fn into_task(self) -> Task {
        Task::Training(self)
    }

    fn reading(app: &App) -> &Reading<Self> {
        &app.readings.training
    }

    async fn outcomes(
        app: &App,
        jobs: &[JobId],
    ) -> Result<HashMap<JobId, TrainingOutcome>, Refusal> {
        let mut reports: HashMap<JobId, TrainingReport> = reports_of(app, jobs).await?;
        let deltas = deltas_of(app, jobs).await?;
        let outcome =
            |(job_id, delta)| (job_id, TrainingOutcome { delta, report: reports.remove(&job_id) });
        Ok(deltas.into_iter().map(outcome).collect())
    }
}

impl JobNoun for MergeTask {
    const KIND: JobKind = JobKind::Merge;
    type Id = MergeId;
    type Outcome = Option<DeltaId>;

    fn from_task(task: Task) -> Option<Self> {
        match task {
            Task::Merge(task) => Some(task),
            Task::Training(_) | Task::Sample(_) | Task::Evaluation(_) | Task::Compression(_) => {
                None
            }
        }
    }

    fn into_task(self) -> Task {
        Task::Merge(self)
    }

    fn reading(app: &App) -> &Reading<Self> {
        &app.readings.merge
    }

    async fn outcomes(
        app: &App,
        jobs: &[JobId],
    ) -> Result<HashMap<JobId, Option<DeltaId>>, Refusal> {
        deltas_of(app, jobs).await
    }
}

impl JobNoun for SampleTask {
    const KIND: JobKind = JobKind::Sample;
    type Id = SampleId;
    type Outcome = Vec<Image>;

    fn from_task(task: Task) -> Option<Self> {
        match task {
            Task::Sample(task) => Some(task),
            Task::Training(_) | Task::Merge(_) | Task::Evaluation(_) | Task::Compression(_) => None,
        }
    }

    fn into_task(self) -> Task {
        Task::Sample(self)
    }

    fn reading(app: &App) -> &Reading<Self> {
        &app.readings.sample
    }

    async fn outcomes(app: &App, jobs: &[JobId]) -> Result<HashMap<JobId, Vec<Image>>, Refusal> {
        let samples: Vec<SampleId> = jobs.iter().map(|job| SampleId::from(*job)).collect();
        let mut of_each: HashMap<JobId, Vec<Image>> = HashMap::new();
        for image in db::image::of_samples(&app.db, &samples).await? {
            if let ImageSource::Sample { sample_id, .. } = image.source {
                of_each.entry(sample_id.into()).or_default().push(image);
            }
        }
        Ok(of_each)
    }
}

impl JobNoun for EvaluationTask {
    const KIND: JobKind = JobKind::Evaluation;
    type Id = EvaluationId;
    type Outcome = Option<EvaluationReport>;

    fn from_task(task: Task) -> Option<Self> {
        match task {
            Task::Evaluation(task) => Some(task),
            Task::Training(_) | Task::Merge(_) | Task::Sample(_) | Task::Compression(_) => None,
        }
    }

    fn into_task(self) -> Task {
        Task::Evaluation(self)
    }

    fn reading(app: &App) -> &Reading<Self> {
        &app.readings.evaluation
    }

    async fn outcomes(
        app: &App,
        jobs: &[JobId],
    ) -> Result<HashMap<JobId, Option<EvaluationReport>>, Refusal> {
        reports_of(app, jobs).await
    }
}

/// The reports of these jobs; a job without one is omitted.
pub(super) async fn reports_of<T: DeserializeOwned>(
    app: &App,
    jobs: &[JobId],
) -> Result<HashMap<JobId, T>, Refusal> {
    let stored = db::report::of_jobs(&app.db, jobs).await?;
    let reports = stored.into_iter().map(|(job_id, report)| {
        Ok((job_id, serde_json::from_value(report).map_err(Refusal::internal)?))
    });
    reports.collect()
}

pub(super) async fn deltas_of(
    app: &App,
    jobs: &[JobId],
) -> Result<HashMap<JobId, Option<DeltaId>>, Refusal> {
    let made = db::delta::of_jobs(&app.db, jobs).await?;
    Ok(made.into_iter().map(|(job_id, delta_id)| (job_id, Some(delta_id))).collect())
}

impl App {
    /// Returns a job of one kind.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none of this kind and id.
    pub async fn job<N: JobNoun>(&self, caller: &Caller, id: N::Id) -> Result<Tracked<N>, Refusal> {
        let read = N::reading(self).read(self, caller.project_id(), id.into()).await?;
        read.ok_or_else(|| Refusal::not_found(N::KIND.as_str(), id))
    }

    /// Returns a job that has just been queued.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] if it is gone already, with a concept that it names.
    pub(super) async fn queued_job<N: JobNoun>(
        &self,
        caller: &Caller,
        id: N::Id,
    ) -> Result<Tracked<N>, Refusal> {
        let read = N::reading(self).read(self, caller.project_id(), id.into()).await?;
        read.ok_or_else(Refusal::deleted_meanwhile)
    }

    /// Lists the jobs of one kind.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such concept.
    pub async fn jobs<N: JobNoun>(
        &self,
        caller: &Caller,
        wanted: WantedJobs<'_>,
        page: Page,
    ) -> Result<PageOf<Tracked<N>>, Refusal> {
        let concept = match wanted.concept {
            Some(name) => Some(self.find_concept(caller, name).await?.concept_id),
            None => None,
        };
        let WantedJobs { status, external_id, prompt, seed, .. } = wanted;
        let seed = seed.map(i64::try_from).transpose().map_err(Refusal::internal)?;
        let filter = db::job::JobFilter { status, concept, external_id, prompt, seed };
        let (project_id, more) = (caller.project_id(), page.with_one_more());
        let found = db::job::list(&self.db, project_id, N::KIND, &filter, more).await?;
        let PageOf { items, has_more } = page.cut(found);
        let jobs = items.into_iter().map(narrow::<N>).collect::<Result<_, _>>()?;
        Ok(PageOf { items: self.track(jobs).await?, has_more })
    }

    /// Asks a job to stop: a queued one is canceled at once, a running one at its next step. One that has ended stays as
    /// it is.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none of this kind and id, [`Refusal::PreconditionFailed`]
    pub async fn cancel<N: JobNoun>(
        &self,
        caller: &Caller,
        id: N::Id,
        precondition: &Precondition,
    ) -> Result<Tracked<N>, Refusal> {
        let mut tx = self.db.begin().await?;
        if *precondition != Precondition::Any {
            let project_id = caller.project_id();
            let revision = db::job::lock_revision(&mut *tx, project_id, id.into(), N::KIND).await?;
            let revision = revision.ok_or_else(|| Refusal::not_found(N::KIND.as_str(), id))?;
            precondition.check(revision)?;
        }
        if N::KIND == JobKind::Evaluation {
            self.standing::<N>(caller, id).await?; // before its samples are asked for anything
            db::evaluation::cancel_samples(&mut *tx, id.into()).await?;
        }
        db::job::cancel(&mut *tx, caller.project_id(), id.into(), N::KIND).await?;
        tx.commit().await?;
        self.job(caller, id).await
    }

    /// Where a job is, without its task.
    pub(super) async fn standing<N: JobNoun>(
        &self,
        caller: &Caller,
        id: N::Id,
    ) -> Result<db::job::Standing, Refusal> {
        let project_id = caller.project_id();
        let found = db::job::standing(&self.db, project_id, id.into(), N::KIND).await?;
        found.ok_or_else(|| Refusal::not_found(N::KIND.as_str(), id))
    }

    pub(super) async fn find_job<N: JobNoun>(
        &self,
        caller: &Caller,
        id: N::Id,
    ) -> Result<Job<N>, Refusal> {
        let project_id = caller.project_id();
        let job = db::job::find(&self.db, project_id, id.into(), N::KIND).await?;
        narrow(job.ok_or_else(|| Refusal::not_found(N::KIND.as_str(), id))?)
    }

    /// Adds what the jobs have made, in one query for all that have succeeded.
    async fn track<N: JobNoun>(&self, jobs: Vec<Job<N>>) -> Result<Vec<Tracked<N>>, Refusal> {
        let jobs = self.with_attempts(jobs).await?;
        let succeeded = jobs.iter().filter(|job| job.status() == JobStatus::Succeeded);
        let succeeded: Vec<JobId> = succeeded.map(|job| job.job_id).collect();
        let mut outcomes = match succeeded.as_slice() {
            [] => HashMap::new(),
            [_, ..] => N::outcomes(self, &succeeded).await?,
        };
        let mut resumptions = match N::KIND {
            JobKind::Training => self.resumptions_of(&jobs).await?,
            JobKind::Merge | JobKind::Sample | JobKind::Evaluation | JobKind::Compression => {
                HashMap::new()
            }
        };
        let tracked = jobs.into_iter().map(|job| Tracked {
            outcome: outcomes.remove(&job.job_id).unwrap_or_default(),
            resumption: resumptions.remove(&job.job_id).unwrap_or_default(),
            job,
        });
        Ok(tracked.collect())
    }
}

impl App {
    async fn resumptions_of<N>(
        &self,
        trainings: &[Job<N>],
    ) -> Result<HashMap<JobId, Resumption>, Refusal> {
        let ids: Vec<JobId> = trainings.iter().map(|job| job.job_id).collect();
        Ok(db::checkpoint::resumptions(&self.db, &ids).await?.into_iter().collect())
    }

    /// Adds how earlier attempts ended, in one query for all jobs that have had any.
    async fn with_attempts<N: JobNoun>(
        &self,
        mut jobs: Vec<Job<N>>,
    ) -> Result<Vec<Job<N>>, Refusal> {
        let had_others = |job: &&Job<N>| {
            job.attempts > 1
                || job.attempts == 1 && matches!(job.state, JobState::Queued | JobState::Failed)
        };
        let tried: Vec<JobId> = jobs.iter().filter(had_others).map(|job| job.job_id).collect();
        if tried.is_empty() {
            return Ok(jobs);
        }
        let mut attempts = db::attempt::of_jobs(&self.db, &tried).await?;
        for job in &mut jobs {
            job.previous_attempts = attempts.remove(&job.job_id).unwrap_or_default();
        }
        Ok(jobs)
    }
}

fn narrow<N: JobNoun>(job: Job) -> Result<Job<N>, Refusal> {
    let job_id = job.job_id;
    job.with_task(N::from_task).ok_or_else(|| Refusal::wrong_task(job_id))
}
