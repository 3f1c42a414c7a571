//! The deletion of a concept with everything that was made of it.

use sqlx::PgConnection;

use super::{Removal, Removed, in_use};
use crate::app::{App, Caller, Precondition, Refusal};
use crate::db;
use crate::db::removal::{UsingDelta, UsingJob};
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::id::{DeltaId, JobId};
use crate::domain::job::{JobKind, JobState, published_id};
use crate::domain::labelled::Labelled;

/// How often a deletion is tried that comes in the way of another one.
const TRIES: usize = 3;

impl App {
    /// Deletes a concept, its photos, and the jobs, deltas and images that were made of it.
    ///
    /// - `cascade`: also what another concept is part of, such as merges, and jobs that have not ended
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::InUse`] without `cascade`; [`Refusal::PreconditionFailed`].
    pub async fn delete_concept(
        &self,
        caller: &Caller,
        name: &str,
        cascade: bool,
        precondition: &Precondition,
    ) -> Result<Removed, Refusal> {
        let concept = self.find_concept(caller, name).await?;
        for _ in 1..TRIES {
            match self.try_to_delete_concept(caller, &concept, cascade, precondition).await {
                Err(Refusal::Internal(cause))
                    if cause.downcast_ref().is_some_and(db::is_deadlock) => {}
                done => return done,
            }
        }
        self.try_to_delete_concept(caller, &concept, cascade, precondition).await
    }

    async fn try_to_delete_concept(
        &self,
        caller: &Caller,
        concept: &Concept,
        cascade: bool,
        precondition: &Precondition,
    ) -> Result<Removed, Refusal> {
        let mut tx = self.db.begin().await?;
        // Jobs before concepts, as a worker does that records a delta.
        lock_jobs_of(&mut tx, caller, concept).await?;
        self.hold_concept(&mut tx, caller, concept, precondition).await?;
        let deltas = db::removal::deltas_with(&mut *tx, concept.concept_id).await?;
        let ids: Vec<DeltaId> = deltas.iter().map(|delta| delta.delta_id).collect();
        db::removal::lock_deltas(&mut *tx, &ids).await?;
        // From here on no new job names the concept or a delta of it.
        let jobs = lock_jobs_of(&mut tx, caller, concept).await?;
        let of_kind = |kind| jobs.iter().filter(move |job| job.kind == kind);
        let evaluations: Vec<JobId> = of_kind(JobKind::Evaluation).map(|job| job.job_id).collect();
        let studies = db::removal::studies_of(&mut *tx, &evaluations).await?;
        if !cascade {
            let deltas = deltas.iter().filter(|delta| delta.is_shared).map(of_shared_delta);
            let jobs = jobs.iter().filter_map(of_dependent_job);
            let studies =
                studies.iter().map(|id| format!("preference study `{id}` shows images of it"));
            let dependents = deltas.chain(jobs).chain(studies).collect();
            if let Some(refusal) = in_use(Code::ConceptInUse, dependents) {
                return Err(refusal);
            }
        }
        let samples = db::removal::samples_of_evaluations(&mut *tx, &evaluations).await?;
        let mut all: Vec<JobId> = jobs.iter().map(|job| job.job_id).chain(samples).collect();
        all.extend(deltas.iter().map(|delta| delta.job_id));
        all.sort_unstable();
        all.dedup();
        let removal = Removal {
            concepts: vec![concept.concept_id],
            deltas: ids,
            jobs: all,
            studies,
            ..Removal::default()
        };
        let (removed, objects) = self.remove(&mut tx, &removal).await?;
        tx.commit().await?;
        tracing::info!(concept.id = %concept.concept_id, handle = %concept.handle, "deleted a concept");
        self.delete_objects(objects).await;
        Ok(removed)
    }

    /// Locks a concept until the transaction ends.
    pub(in crate::app) async fn hold_concept(
        &self,
        tx: &mut PgConnection,
        caller: &Caller,
        concept: &Concept,
        precondition: &Precondition,
    ) -> Result<(), Refusal> {
        let object = Labelled::Concept(concept.concept_id);
        self.hold(tx, caller, object, precondition).await?;
        Ok(())
    }
}

async fn lock_jobs_of(
    tx: &mut PgConnection,
    caller: &Caller,
    concept: &Concept,
) -> Result<Vec<UsingJob>, Refusal> {
    let (project_id, concept_id) = (caller.project_id(), concept.concept_id);
    let jobs = db::removal::jobs_using(&mut *tx, project_id, concept_id).await?;
    let mut ids: Vec<JobId> = jobs.iter().map(|job| job.job_id).collect();
    let evaluations = jobs.iter().filter(|job| job.kind == JobKind::Evaluation);
    let evaluations: Vec<JobId> = evaluations.map(|job| job.job_id).collect();
    ids.extend(db::removal::samples_of_evaluations(&mut *tx, &evaluations).await?);
    db::removal::lock_jobs(&mut *tx, &ids).await?;
    // As they are now that nobody changes them.
    Ok(db::removal::jobs_using(&mut *tx, project_id, concept_id).await?)
}

/// Why a delta depends on the concept.
fn of_shared_delta(delta: &UsingDelta) -> String {
    let job = published_id(delta.job_id, delta.kind);
    let made_by = delta.kind.as_str();
    format!(
        "delta `{}`, made by {made_by} `{job}`, contains other concepts as well",
        delta.delta_id
    )
}

/// Why a job depends on the concept; `None` if it is the concept's own.
fn of_dependent_job(job: &UsingJob) -> Option<String> {
    let (kind, id) = (job.kind.as_str(), published_id(job.job_id, job.kind));
    match job.state {
        JobState::Queued | JobState::Running => {
            Some(format!("{kind} `{id}` has not ended: cancel it, or wait"))
        }
        JobState::Succeeded | JobState::Failed | JobState::Canceled => {
            job.is_shared.then(|| format!("{kind} `{id}` uses other concepts as well"))
        }
    }
}
