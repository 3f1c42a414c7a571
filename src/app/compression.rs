//! Compressions: a delta in fewer numbers.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::binding::check_base_model;
use super::dry_run::DryRun;
use super::job::{JobNoun, Reading, Tracked, deltas_of, reports_of};
use super::queue::{Asked, JobOptions};
use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::compression::{CompressionReport, CompressionTask, Keep};
use crate::domain::id::{CompressionId, DeltaId, JobId};
use crate::domain::job::{JobKind, Task};
use crate::domain::version::TaskVersion;
use crate::domain::warning::Warning;

/// A compression to start.
#[derive(Clone, Copy, Debug)]
pub struct NewCompression {
    /// Either this or `energy`.
    pub rank: Option<usize>,
    pub energy: Option<f64>,
    pub make_current: bool,
}

/// What a compression has made.
#[derive(Clone, Debug, Default)]
pub struct CompressionOutcome {
    pub delta: Option<DeltaId>,
    pub report: Option<CompressionReport>,
}

/// A compression and, once it has succeeded, its delta.
pub type Compression = Tracked<CompressionTask>;

impl JobNoun for CompressionTask {
    const KIND: JobKind = JobKind::Compression;
    type Id = CompressionId;
    type Outcome = CompressionOutcome;

    fn from_task(task: Task) -> Option<Self> {
        match task {
            Task::Compression(task) => Some(task),
            Task::Training(_) | Task::Merge(_) | Task::Sample(_) | Task::Evaluation(_) => None,
        }
    }

    fn into_task(self) -> Task {
        Task::Compression(self)
    }

    fn reading(app: &App) -> &Reading<Self> {
        &app.readings.compression
    }

    async fn outcomes(
        app: &App,
        jobs: &[JobId],
    ) -> Result<HashMap<JobId, CompressionOutcome>, Refusal> {
        let mut reports: HashMap<JobId, CompressionReport> = reports_of(app, jobs).await?;
        let deltas = deltas_of(app, jobs).await?;
        let outcome = |(job_id, delta)| {
            (job_id, CompressionOutcome { delta, report: reports.remove(&job_id) })
        };
        Ok(deltas.into_iter().map(outcome).collect())
    }
}

impl App {
    /// Queues the compression of a delta.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such delta; [`Refusal::Invalid`] if it is of another base model, or if not exactly
    /// one of rank and energy is given; [`Refusal::QueueFull`].
    pub async fn start_compression(
        &self,
        caller: &Caller,
        delta_id: DeltaId,
        new: NewCompression,
        options: JobOptions,
    ) -> Result<Compression, Refusal> {
        options.schedule.check()?;
        let mut tx = self.db.begin().await?;
        let asked = self.resolve_compression(&mut tx, caller, delta_id, new).await?;
        let id = self.enqueue(&mut tx, caller, asked, &options).await?;
        tx.commit().await?;
        self.announce(JobKind::Compression);
        self.queued_job(caller, id).await
    }

    /// Answers what [`Self::start_compression`] would queue.
    ///
    /// # Errors
    /// The same, without [`Refusal::QueueFull`].
    pub async fn try_compression(
        &self,
        caller: &Caller,
        delta_id: DeltaId,
        new: NewCompression,
        options: JobOptions,
    ) -> Result<DryRun<CompressionTask>, Refusal> {
        options.schedule.check()?;
        let mut db = self.db.acquire().await?;
        let asked = self.resolve_compression(&mut db, caller, delta_id, new).await?;
        self.dry_run(&mut db, asked, options.schedule).await
    }

    async fn resolve_compression(
        &self,
        tx: &mut PgConnection,
        caller: &Caller,
        delta_id: DeltaId,
        new: NewCompression,
    ) -> Result<Asked<CompressionTask>, Refusal> {
        let keep = Keep::new(new.rank, new.energy)?;
        let found = db::delta::find(&mut *tx, caller.project_id(), &[delta_id]).await?;
        let delta = found.into_iter().next();
        let delta = delta.ok_or_else(|| Refusal::not_found("delta", delta_id))?;
        check_base_model(&delta, &self.model, "delta_id")?;
        let concepts = db::delta::concepts_of(&mut *tx, &[delta_id]).await?;
        let task = CompressionTask {
            version: TaskVersion::NEWEST,
            base_digest: self.model.digest.clone(),
            delta: delta.used_at(1.0),
            source_size_bytes: delta.size_bytes,
            concepts: concepts.iter().map(|concept| concept.concept_id).collect(),
            keep,
            make_current: new.make_current,
        };
        Ok(Asked { task, warnings: of_keep(keep) })
    }
}

/// Shares of singular values below this leave little of a concept. The paper keeps 0.6.
const LITTLE_ENERGY: f64 = 0.3;

/// Warns of a compression that keeps everything, or next to nothing.
fn of_keep(keep: Keep) -> Vec<Warning> {
    let (code, pointer, detail) = match keep {
        Keep::Energy(energy) if energy >= 1.0 => (
            Code::FieldIgnored,
            "/energy",
            "at an energy of 1 all singular values are kept, so the file hardly shrinks: the paper keeps 0.6",
        ),
        Keep::Energy(energy) if energy < LITTLE_ENERGY => (
            Code::ValueUnusual,
            "/energy",
            "so little leaves hardly anything of a concept: the paper keeps 0.6",
        ),
        Keep::Energy(_) | Keep::Rank(_) => return Vec::new(),
    };
    vec![Warning::new(code, pointer, detail)]
}
