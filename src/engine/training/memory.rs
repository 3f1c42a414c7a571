//! The bytes that a training step has alive at its peak, term by term.

use crate::engine::clip::ClipTextConfig;
use crate::engine::unet::{CallSize, Recomputation, UNet2DConditionConfig};

/// What a training step holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepMemory {
    /// Of UNet and text encoder, as they are computed with.
    pub weights: u64,
    /// The trained tensors and both of their moments, f32.
    pub state: u64,
    /// Keys and values of all elements: in f32, as the UNet takes them, and the gradients of those.
    pub key_values: u64,
    /// What the text encoder's tape keeps for captions with a modifier token.
    pub text: u64,
    /// Activations of the UNet, their gradients, and what operations hold in the backward pass.
    pub activations: u64,
    /// What the optimiser holds in addition to the state, after all activations are freed.
    pub optimizer: u64,
}

impl StepMemory {
    /// - `trained`: how many numbers are trained
    /// - `prompts`: captions with a modifier token that differ, and tokens of each
    pub fn of(
        trained: u64,
        unet: &UNet2DConditionConfig,
        text: &ClipTextConfig,
        call: &CallSize,
        prompts: (usize, usize),
        recomputation: &Recomputation,
    ) -> Self {
        const F32: u64 = 4;
        let element = call.dtype.size_in_bytes() as u64;
        let (captions, tokens) = (prompts.0 as u64, prompts.1 as u64);
        let trained = F32 * trained;
        Self {
            weights: element * (unet.parameters() + text.parameters()),
            state: 3 * trained,
            key_values: (F32 + 2 * element) * call.batch as u64 * tokens * unet.projected(),
            // Each layer keeps what both norms read, q, k, v, the attention's result and the MLP's inside.
            text: element
                * captions
                * tokens
                * text.num_hidden_layers as u64
                * (6 * text.hidden_size + text.intermediate_size) as u64,
            activations: unet.activation_bytes(call, recomputation),
            optimizer: if call.on_cpu { 4 } else { 6 } * trained,
        }
    }

    /// What is left for activations of a budget that excludes the weights.
    pub fn left_for_activations(&self, budget: u64) -> u64 {
        budget.saturating_sub(self.state + self.key_values + self.text)
    }

    /// All of it but what the model's weights take.
    pub fn beside_weights(&self) -> u64 {
        self.state + (self.key_values + self.text + self.activations).max(self.optimizer)
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.beside_weights()
    }
}
