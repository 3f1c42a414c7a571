//! Trainings: from photos in the store to a delta in the store.

mod class_images;
mod images;

use std::sync::Arc;

use crate::db;
use crate::domain::delta::Delta as StoredDelta;
use crate::domain::id::ConceptId;
use crate::domain::job::Phase;
use crate::domain::training::TrainingTask;
use crate::domain::training_report::TrainingReport;
use crate::engine::Flow;
use crate::engine::{
    BaseModel, Delta, EngineError, FineTuning, TrainingInput, TrainingPhase, TrainingProgress,
    weight_change,
};
use crate::worker::delta_writer::{self, Product};
use crate::worker::error::JobError;
use crate::worker::job::{Admission, Job, Kind};
use crate::worker::permits::Permits;
use crate::worker::progress::{Progress, StepLoss};

pub(crate) struct Training;

impl Kind for Training {
    type Task = TrainingTask;
    const ADMISSION: Admission = Admission::Exclusive;

    /// Learns the concepts and makes the delta their current one.
    ///
    /// From then on the delta is safe: a worker that takes the job over goes on behind it.
    #[tracing::instrument(skip_all, fields(job.id = %job.lease.job_id))]
    async fn run(job: &Job, task: TrainingTask, _: Permits) -> Result<(), JobError> {
        let Job { context, lease, .. } = job;
        let delta = match delta_writer::recorded(job).await? {
            Some(delta) => delta,
            None => learn(job, task).await?,
        };
        delta_writer::prepare_for_merges(context, &delta).await;
        lease.report().await?; // the last points of the loss curve; nothing more is accepted once the job has ended
        match db::job::succeed(&context.db, lease.job_id, lease.fence).await? {
            true => Ok(()),
            false => Err(JobError::LeaseLost),
        }
    }
}

/// From photos to a delta that is stored and recorded.
async fn learn(job: &Job, task: TrainingTask) -> Result<StoredDelta, JobError> {
    let Job { context, progress, .. } = job;
    progress.enter(Phase::Fetching);
    let task = class_images::generate_missing(job, task).await?;
    let taught: Vec<ConceptId> = task.concepts.iter().map(|concept| concept.concept_id).collect();
    let carried_over = task.start_from.iter().flat_map(|start| start.concepts.iter().copied());
    let contents: Vec<ConceptId> = carried_over.chain(taught.iter().copied()).collect();
    let start_from = match &task.start_from {
        Some(start) => Some(job.context.deltas.delta(&start.delta).await?),
        None => None,
    };
    let concepts = images::read_concepts(job, &task).await?;
    let input = TrainingInput {
        concepts,
        recipe: task.recipe,
        seed: task.seed,
        memory_budget: context.config.memory_budget,
    };
    let (file, report) = train_on_device(job, input, start_from).await?;
    progress.enter(Phase::Storing);
    progress.check()?;
    let product = Product {
        file,
        base_digest: &task.base_digest,
        concepts: &contents,
        current_of: &taught,
        report: Some(&report),
    };
    delta_writer::store(job, product).await
}

/// Runs the training, which lets other work at the device in between its steps, and returns the delta's file.
async fn train_on_device(
    job: &Job,
    mut input: TrainingInput,
    start_from: Option<Arc<Delta>>,
) -> Result<(Vec<u8>, TrainingReport), JobError> {
    let (progress, faults) = (job.progress.clone(), job.context.config.faults.clone());
    let file = job.context.device.run_long(move |engine, slices| {
        input.memory_budget = input.memory_budget.or(engine.training_memory);
        let mut observe = |step: &TrainingProgress| {
            if let Some(faults) = &faults {
                faults.after_training_step(progress.job_id());
            }
            match (note(&progress, step), slices.give(engine)) {
                (Flow::Continue, Flow::Continue) => Flow::Continue,
                (Flow::Stop, _) | (_, Flow::Stop) => Flow::Stop,
            }
        };
        let mut fine_tuning =
            FineTuning::starting_from(&engine.base, &input, start_from.as_deref())?;
        fine_tuning.run(&mut observe)?;
        let delta = fine_tuning.delta()?;
        let report = report(&engine.base, &delta, &fine_tuning)?;
        Ok::<_, EngineError>((delta.to_safetensors()?, report))
    });
    Ok(file.await??)
}

fn report(
    base: &BaseModel,
    delta: &Delta,
    fine_tuning: &FineTuning<'_>,
) -> Result<TrainingReport, EngineError> {
    let mut report = weight_change(base, delta, &fine_tuning.starts())?;
    for (token, gain) in report.token_change.iter_mut().zip(fine_tuning.binding_gains()) {
        token.set_binding_gain(*gain);
        if token.binds == Some(false) {
            tracing::warn!(
                token = token.modifier_token.as_str(),
                gain,
                "the modifier token does not bind"
            );
        }
    }
    Ok(report)
}

fn note(progress: &Progress, step: &TrainingProgress) -> Flow {
    let (phase, loss) = match step.phase {
        TrainingPhase::Encoding => (Phase::Encoding, None),
        TrainingPhase::Optimizing => {
            let loss = StepLoss { loss: f64::from(step.loss), grad_norm: step.grad_norm };
            (Phase::Optimizing, Some(loss))
        }
    };
    progress.step(phase, step.step, step.total_steps, loss)
}
