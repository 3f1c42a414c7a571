//! A training's state between two steps.

use candle_core::Tensor;

/// Everything that a training changes. With the same input, a trainer that is restored from it gives the same bytes.
///
/// For a Stable Diffusion 1 about 230 MB. The tensors are immutable and shared with the trainer, so taking a state out
/// copies nothing.
#[derive(Clone, Debug)]
pub struct TrainerState {
    /// Optimizer steps taken so far.
    pub step: usize,
    pub parameters: Vec<ParameterState>,
}

/// One trained tensor with its optimizer's moments, all of one shape, in f32.
#[derive(Clone, Debug)]
pub struct ParameterState {
    /// [`Parameter::name`](super::method::Parameter::name).
    pub name: String,
    pub value: Tensor,
    pub first_moment: Tensor,
    pub second_moment: Tensor,
}
