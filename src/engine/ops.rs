//! Our operations and their gradients.
//!
//! Weights of a frozen model are fields of these types and invisible to candle's tape, so that a backward pass
//! computes gradients of inputs only. candle's own `softmax_last_dim`, `layer_norm` and friends cut the tape without
//! an error and are never used here.

mod activation;
mod attention;
mod conv;
mod linear;
mod norm;
mod resample;

pub use activation::{geglu, gelu, quick_gelu, silu};
pub use attention::attention;
pub use conv::{FrozenConv2d, Padding};
pub use linear::FrozenLinear;
pub use norm::{GroupNorm, LayerNorm};
pub use resample::upsample_nearest_2x;
