//! Our operations and their gradients.
//!
//! Weights of a frozen model are fields of these types and invisible to candle's tape, so that a backward pass
//! computes gradients of inputs only. candle's own `softmax_last_dim`, `layer_norm` and friends cut the tape without
//! an error and are never used here.
//!
//! f32 on the CPU runs on kernels of ours; every other device and type runs the same mathematics through candle's
//! operations. No result depends on the number of threads, and no row of a batch on the others: work is cut at fixed
//! places, and every sum has one order.

mod activation;
mod arrange;
mod attention;
mod conv;
mod cpu;
mod linear;
mod norm;
mod product;
mod resample;

pub use activation::{geglu, gelu, quick_gelu, silu};
pub use arrange::{add, add_per_channel, concat_channels, transpose_last};
pub use attention::attention;
pub use conv::{FrozenConv2d, Padding};
pub use linear::FrozenLinear;
pub use norm::{GroupNorm, LayerNorm};
pub use resample::upsample_nearest_2x;
