//! What a training has changed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::concept::ModifierToken;

/// What a training has changed, once it has succeeded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrainingReport {
    /// `‖W′ − W‖ / ‖W‖` of every trained matrix, in the order of their names.
    #[serde(default)]
    pub weight_change: Vec<WeightChange>,
    /// The same of the modifier tokens' embedding rows, against what they started from.
    #[serde(default)]
    pub token_change: Vec<TokenChange>,
}

/// How far a matrix has moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WeightChange {
    /// The matrix under its name in diffusers, such as `down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight`.
    pub weight: String,
    /// `‖W′ − W‖ / ‖W‖`, in Frobenius norms.
    pub change: f64,
}

/// How far a modifier token's embedding row has moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenChange {
    pub modifier_token: ModifierToken,
    /// The vocabulary entry that the row started from. Null if it is not known.
    pub initializer_token: Option<String>,
    /// `‖v′ − v‖ / ‖v‖`. Null if it is not known what the row started from.
    pub change: Option<f64>,
    /// By how much the loss on the photos is larger with a rare token's row in place of this one, as a fraction. Near 0, the
    /// model does not read the token. Null if it was not measured.
    #[serde(default)]
    pub binding_gain: Option<f64>,
    /// Whether the model reads the token: whether `binding_gain` is at least 0.02. If not, images are likely to show the class
    /// and not the concept; train again with another seed or other `initializer_candidates`. Null if it was not measured.
    #[serde(default)]
    pub binds: Option<bool>,
}

impl TokenChange {
    /// The least `binding_gain` of a token that the model reads: `docs/evidence.md` has the measurements.
    pub const LEAST_BINDING_GAIN: f64 = 0.02;

    /// Takes down the gain that was measured, if it is a number.
    pub fn set_binding_gain(&mut self, gain: f64) {
        self.binding_gain = gain.is_finite().then_some(gain);
        self.binds = self.binding_gain.map(|gain| gain >= Self::LEAST_BINDING_GAIN);
    }
}
