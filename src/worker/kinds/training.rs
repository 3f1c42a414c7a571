//! Trainings: from photos in the store to a delta in the store.

mod cadence;
mod checkpoint;
mod class_images;
mod images;
mod previews;
mod resume;

use std::sync::Arc;
use std::time::Instant;

use crate::counters::WORK;
use crate::domain::checkpoint::input_digest;
use crate::domain::delta::Delta as StoredDelta;
use crate::domain::id::ConceptId;
use crate::domain::job::Phase;
use crate::domain::training::task::TrainingTask;
use crate::domain::training_report::TrainingReport;
use crate::engine::Flow;
use crate::engine::device::release_memory;
use crate::engine::{
    BaseModel, Delta, EngineError, FineTuning, TrainerState, TrainingInput, TrainingPhase,
    TrainingProgress, weight_change,
};
use crate::worker::checkpoints;
use crate::worker::delta_writer::{self, Product};
use crate::worker::engine::Engine;
use crate::worker::error::JobError;
use crate::worker::job::{Admission, Job, Kind};
use crate::worker::permits::Permits;
use crate::worker::progress::{Progress, StepLoss, StopReason};

pub(crate) struct Training;

impl Kind for Training {
    type Task = TrainingTask;
    const ADMISSION: Admission = Admission::Exclusive;

    /// Learns the concepts and makes the delta their current one.
    ///
    /// A worker that takes the job over goes on from the last checkpoint. When the worker ends, that is where the job stops.
    ///
    /// From then on the delta is safe: a worker that takes the job over goes on behind it.
    async fn run(job: &Job, task: TrainingTask, _: Permits) -> Result<(), JobError> {
        let Job { context, lease, .. } = job;
        let delta = match delta_writer::recorded_patiently(job).await? {
            Some(delta) => delta,
            None => learn(job, task).await?,
        };
        delta_writer::prepare_for_merges(context, &delta).await;
        // Once the job has ended, nothing more is accepted.
        let report = || async { Ok(lease.report().await?) };
        job.patiently("writing the end of the loss curve", report).await?;
        job.succeed().await?;
        if let Err(error) = checkpoints::discard(context).await {
            tracing::warn!(%error, "its checkpoints are not deleted yet");
        }
        Ok(())
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
        Some(start) => {
            let read = || async { Ok(context.deltas.delta(&start.delta).await?) };
            Some(job.patiently("reading the delta to start from", read).await?)
        }
        None => None,
    };
    let concepts = images::read_concepts(job, &task).await?;
    let input_digest = input_digest(&task);
    let state = resume::find(job, &input_digest).await?;
    let (drawer, images) = previews::channel(job, &task);
    let input = TrainingInput {
        concepts,
        recipe: task.recipe,
        seed: task.seed,
        memory_budget: context.config.memory_budget,
    };
    let step = state.as_ref().map_or(0, |state| state.step);
    let (taker, writer) = checkpoint::channel(job, input_digest, step);
    let (file, report) =
        train(job, Run { input, start_from, state, taker, drawer }, writer, images).await?;
    progress.enter(Phase::Storing);
    match progress.stop_reason() {
        // All steps are taken. What is left is short.
        None | Some(StopReason::WorkerEnds) => {}
        Some(StopReason::Canceled | StopReason::LeaseLost) => progress.check()?,
    }
    let product = Product {
        file: file.into(),
        base_digest: &task.base_digest,
        concepts: &contents,
        current_of: &taught,
        promote: task.promote,
        report: Some(&report),
    };
    delta_writer::store(job, product).await
}

/// What the device's thread needs for a training.
struct Run {
    input: TrainingInput,
    start_from: Option<Arc<Delta>>,
    /// What it goes on from; `None` for the beginning.
    state: Option<TrainerState>,
    taker: checkpoint::Taker,
    /// Draws previews, if they were asked for.
    drawer: Option<previews::Drawer>,
}

/// How a training on the device ended.
enum Ended {
    /// With the delta's file.
    Trained(Vec<u8>, Box<TrainingReport>),
    /// Between two steps.
    Stopped(TrainerState),
}

/// Runs the training and writes its checkpoints and previews meanwhile; returns the delta's file. If the worker ends, the training's state
/// is written.
async fn train(
    job: &Job,
    run: Run,
    mut writer: checkpoint::Writer<'_>,
    mut images: previews::Writer<'_>,
) -> Result<(Vec<u8>, TrainingReport), JobError> {
    let first_step = run.state.as_ref().map_or(0, |state| state.step);
    let mut trained = std::pin::pin!(train_on_device(job, run));
    let ended = tokio::select! {
        ended = &mut trained => ended?,
        // Nothing more is taken, so the training is about to end.
        ((), ()) = futures::future::join(writer.run(), images.run()) => trained.await?,
    };
    images.run().await; // those of the last step
    let state = match ended {
        Ended::Trained(file, report) => return Ok((file, *report)),
        Ended::Stopped(state) => state,
    };
    if job.progress.stop_reason() == Some(StopReason::WorkerEnds) && state.step > first_step {
        writer.write_last(state).await;
    }
    Err(JobError::Stopped)
}

/// The training itself, which lets other work at the device in between its steps.
async fn train_on_device(job: &Job, run: Run) -> Result<Ended, JobError> {
    let (progress, faults) = (job.progress.clone(), job.context.config.faults.clone());
    let Run { mut input, start_from, state, mut taker, drawer } = run;
    let ended = job.context.device.run_long(move |engine, slices| {
        input.memory_budget = input.memory_budget.or(engine.training_memory.get());
        let mut fine_tuning =
            FineTuning::starting_from(&engine.base, &input, start_from.as_deref())?;
        if let Some(state) = state {
            fine_tuning.restore(state)?;
        } else if let Some(drawer) = &drawer
            && drawer.before_the_first_step(engine, slices) == Flow::Stop
        {
            return Ok(Ended::Stopped(fine_tuning.state().on_host()?));
        }
        let mut broken = None;
        let mut resumed = Instant::now();
        let ran = fine_tuning.run_observed(&mut |step, state| {
            if matches!(step.phase, TrainingPhase::Optimizing) {
                WORK.training_steps.observe(resumed.elapsed());
            }
            if let Some(faults) = &faults {
                faults.after_training_step(progress.job_id());
            }
            let flow = match (note(&progress, step), slices.give(engine)) {
                (Flow::Continue, Flow::Continue) => Flow::Continue,
                (Flow::Stop, _) | (_, Flow::Stop) => return Flow::Stop,
            };
            if let (Some(drawer), Some(state)) = (&drawer, state) {
                let learned = || learned_so_far(engine, &input, start_from.as_deref(), state());
                let at = (step.step, step.total_steps);
                if drawer.after_step(engine, slices, at, learned) == Flow::Stop {
                    return Flow::Stop;
                }
            }
            let taken = state.map_or(Ok(()), |state| taker.after_step(step.step, state));
            resumed = Instant::now();
            match taken {
                Ok(()) => flow,
                Err(error) => {
                    broken = Some(error);
                    Flow::Stop
                }
            }
        });
        match (ran, broken) {
            (_, Some(error)) => return Err(error),
            (Err(EngineError::Stopped), None) => {
                return Ok(Ended::Stopped(fine_tuning.state().on_host()?));
            }
            (ran, None) => {
                if let Err(EngineError::OutOfMemory(_)) = &ran {
                    // The next training keeps less, and computes more again.
                    let memory = engine.training_memory.get().map(|memory| memory / 2);
                    engine.training_memory.set(memory);
                    release_memory(&engine.base.device);
                }
                ran?
            }
        }
        let delta = fine_tuning.delta()?;
        let report = report(&engine.base, &delta, &fine_tuning)?;
        Ok::<_, EngineError>(Ended::Trained(delta.to_safetensors()?, Box::new(report)))
    });
    Ok(ended.await??)
}

/// The delta as its file would have it if the training ended here.
fn learned_so_far(
    engine: &Engine,
    input: &TrainingInput,
    start_from: Option<&Delta>,
    state: TrainerState,
) -> Result<Delta, EngineError> {
    let mut fine_tuning = FineTuning::starting_from(&engine.base, input, start_from)?;
    fine_tuning.restore(state)?;
    Delta::from_safetensors(&fine_tuning.delta()?.to_safetensors()?)
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
