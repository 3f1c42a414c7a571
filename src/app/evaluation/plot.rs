//! What an evaluation that has succeeded can be shown as.

use bytes::Bytes;

use super::super::{App, Caller, Refusal};
use crate::db;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::evaluation::report::EvaluationReport;
use crate::domain::id::{DeltaId, EvaluationId, TrainingId};
use crate::domain::job::{Job, JobKind};
use crate::plot::{self, LossCurve};

/// Points of a loss curve that are read.
const MAX_POINTS: i64 = 100_000;

impl App {
    /// The contact sheet, as PNG.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no evaluation of this id, or it has not succeeded.
    pub async fn evaluation_sheet(
        &self,
        caller: &Caller,
        id: EvaluationId,
    ) -> Result<Bytes, Refusal> {
        self.standing::<EvaluationTask>(caller, id).await?;
        let key = db::report::sheet_of(&self.db, id.into()).await?;
        let key = key.ok_or_else(|| Refusal::not_found("sheet of evaluation", id))?;
        let read = self.storage.read(&key).await;
        read.map_err(|error| Refusal::of_object("evaluation", id, error))
    }

    /// Text- against image-alignment of the subjects, as SVG.
    ///
    /// # Errors
    /// As for [`Self::evaluation_sheet`].
    pub async fn evaluation_alignment(
        &self,
        caller: &Caller,
        id: EvaluationId,
    ) -> Result<String, Refusal> {
        let report: Option<EvaluationReport> =
            self.job::<EvaluationTask>(caller, id).await?.outcome;
        let report = report.ok_or_else(|| Refusal::not_found("report of evaluation", id))?;
        Ok(plot::alignment(&report))
    }

    /// Loss curves of the trainings whose deltas are evaluated, as SVG.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no evaluation of this id.
    pub async fn evaluation_losses(
        &self,
        caller: &Caller,
        id: EvaluationId,
    ) -> Result<String, Refusal> {
        let job = self.find_job::<EvaluationTask>(caller, id).await?;
        Ok(plot::loss(&self.loss_curves(caller, &job).await?))
    }

    async fn loss_curves(
        &self,
        caller: &Caller,
        job: &Job<EvaluationTask>,
    ) -> Result<Vec<LossCurve>, Refusal> {
        let uses = job.task.subjects.iter().flat_map(|subject| &subject.deltas);
        let mut ids: Vec<DeltaId> = uses.map(|used| used.delta_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut curves = Vec::new();
        for delta in db::delta::find(&self.db, caller.project_id(), &ids).await? {
            if delta.made_by != JobKind::Training {
                continue;
            }
            let metrics = db::metric::after(&self.db, delta.job_id, 0, MAX_POINTS).await?;
            let points = metrics.iter().map(|metric| (f64::from(metric.step), metric.loss));
            let name = TrainingId::from(delta.job_id).to_string();
            curves.push(LossCurve { name, points: points.collect() });
        }
        Ok(curves)
    }
}
