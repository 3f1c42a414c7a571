//! The deletion of jobs that have ended.

use super::{Removal, Removed, in_use};
use crate::app::job::JobNoun;
use crate::app::{App, Caller, Precondition, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::id::{DeltaId, EvaluationId, JobId};
use crate::domain::invalid::FieldError;
use crate::domain::job::{JobKind, JobStatus};
use crate::domain::labelled::Labelled;

impl App {
    /// Deletes a job that has ended, with its events, reports and images.
    ///
    /// - `cascade`: also its delta, or the preference studies that compare its images
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Conflict`] if the job has not ended; [`Refusal::InUse`] if something of it is still there,
    /// or if it is a sample of an evaluation; [`Refusal::PreconditionFailed`].
    pub async fn delete_job<N: JobNoun>(
        &self,
        caller: &Caller,
        id: N::Id,
        cascade: bool,
        precondition: &Precondition,
    ) -> Result<Removed, Refusal> {
        let job_id: JobId = id.into();
        let mut tx = self.db.begin().await?;
        let is_evaluation = N::KIND == JobKind::Evaluation;
        let samples = match is_evaluation {
            true => db::removal::samples_of_evaluations(&mut *tx, &[job_id]).await?,
            false => Vec::new(),
        };
        db::removal::lock_jobs(&mut *tx, &samples).await?;
        self.hold(&mut tx, caller, Labelled::Job(job_id, N::KIND), precondition).await?;
        let standing = db::job::standing(&mut *tx, caller.project_id(), job_id, N::KIND).await?;
        check_ended::<N>(id, standing.map(|standing| standing.status))?;

        let deltas = db::delta::of_jobs(&mut *tx, &[job_id]).await?;
        let deltas: Vec<DeltaId> = deltas.into_iter().map(|(_, delta)| delta).collect();
        let studies = match is_evaluation {
            true => db::removal::studies_of(&mut *tx, &[job_id]).await?,
            false => Vec::new(),
        };
        let evaluation = match N::KIND {
            JobKind::Sample => db::removal::evaluation_of(&mut *tx, job_id).await?,
            JobKind::Training | JobKind::Merge | JobKind::Evaluation | JobKind::Compression => None,
        };
        if let Some((evaluation, _)) = evaluation {
            let detail = format!(
                "it is a sample of evaluation `{}`: delete that",
                EvaluationId::from(evaluation)
            );
            return Err(Refusal::Conflict(FieldError::new("", Code::JobInUse, detail)));
        }
        if !cascade {
            let deltas = deltas.iter().map(|delta| format!("it has made delta `{delta}`"));
            let studies = studies
                .iter()
                .map(|study| format!("preference study `{study}` compares its images"));
            if let Some(refusal) = in_use(Code::JobInUse, deltas.chain(studies).collect()) {
                return Err(refusal);
            }
        }
        let jobs = samples.into_iter().chain([job_id]).collect();
        let removal = Removal { deltas, jobs, studies, ..Removal::default() };
        let (removed, objects) = self.remove(&mut tx, &removal).await?;
        tx.commit().await?;
        self.delete_objects(objects).await;
        Ok(removed)
    }
}

fn check_ended<N: JobNoun>(id: N::Id, status: Option<JobStatus>) -> Result<(), Refusal> {
    let noun = N::KIND.as_str();
    match status {
        None => Err(Refusal::not_found(noun, id)),
        Some(status) if status.is_terminal() => Ok(()),
        Some(_) => {
            let detail = format!(
                "{noun} `{id}` has not ended: cancel it with POST /v1/{noun}s/{id}/cancel, and wait"
            );
            Err(Refusal::Conflict(FieldError::new("", Code::JobNotEnded, detail)))
        }
    }
}
