//! Fine-tuning, neutral to the method: what is trained comes in as a [`Method`].

mod adamw;
mod augmentation;
mod batch;
mod checkpoint;
mod dataset;
mod input;
mod learning_rate;
mod loss;
mod memory;
mod method;
mod objective;
mod state;
mod trainer;

use self::learning_rate::learning_rate_at;
use super::base_model::BaseModel;
use super::error::{EngineError, Result};
use super::flow::Flow;

pub use self::batch::{Batch, FrozenModel};
pub(crate) use self::dataset::Dataset;
pub use self::input::{CaptionedImage, Guide, LazyImage, TrainingConcept, TrainingInput};
pub use self::memory::StepMemory;
pub use self::method::{LossGradient, Method, Parameter, loss_gradient};
pub use self::objective::Objective;
pub use self::state::{ParameterState, TrainerState};
pub use self::trainer::{StepReport, Trainer};

/// What a training is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainingPhase {
    /// Images are augmented and encoded to latents, then candidates for initializers are compared; steps count images and
    /// comparisons.
    Encoding,
    /// The parameters move; steps are optimizer steps.
    Optimizing,
}

/// How far a training is.
#[derive(Clone, Copy, Debug)]
pub struct TrainingProgress {
    pub phase: TrainingPhase,
    pub step: usize,
    pub total_steps: usize,
    /// Loss and gradient norm (before clipping) of the step just taken; 0 while encoding.
    pub loss: f32,
    pub grad_norm: f64,
    pub learning_rate: f64,
}

impl TrainingProgress {
    /// Progress before the first optimizer step.
    pub(crate) fn encoding(step: usize, total_steps: usize) -> Self {
        let phase = TrainingPhase::Encoding;
        Self { phase, step, total_steps, loss: 0.0, grad_norm: 0.0, learning_rate: 0.0 }
    }
}

/// Looks at a training after each of its steps, and returns whether to go on.
///
/// The second argument takes the state out. There is none before the first optimizer step of a run: until then the state is
/// what the run began with.
pub type Observe<'a> = dyn FnMut(&TrainingProgress, Option<&dyn Fn() -> TrainerState>) -> Flow + 'a;

/// Takes the optimizer steps that are left.
///
/// A step depends on the parameters, their moments and its number alone, so a trainer that was restored goes on as if it
/// had not been interrupted.
///
/// # Errors
/// [`EngineError::Stopped`] if `observe` said so, [`EngineError::Diverged`] if the loss is no longer a number.
pub(crate) fn run<M: Method>(
    base: &BaseModel,
    trainer: &mut Trainer<M>,
    input: &TrainingInput,
    dataset: &Dataset,
    observe: &mut Observe<'_>,
) -> Result<()> {
    let recipe = &input.recipe;
    for step in trainer.steps_taken()..recipe.max_train_steps {
        let batch = dataset.batch(base, recipe, input.seed, step)?;
        let learning_rate = learning_rate_at(recipe, step);
        let StepReport { loss, grad_norm } = trainer.step(base.into(), &batch, learning_rate)?;
        if !loss.is_finite() {
            return Err(EngineError::Diverged { step: step + 1, loss });
        }
        let progress = TrainingProgress {
            phase: TrainingPhase::Optimizing,
            step: step + 1,
            total_steps: recipe.max_train_steps,
            loss,
            grad_norm,
            learning_rate,
        };
        if observe(&progress, Some(&|| trainer.state())) == Flow::Stop {
            return Err(EngineError::Stopped);
        }
    }
    Ok(())
}
