//! Our operations and their gradients.
//!
//! Weights of a frozen model are fields of these types and no [`Variable`]s, so that a backward pass computes gradients
//! of inputs only. Images are `(batch, height, width, channels)`: what a pixel has lies together, so that a kernel
//! position of a convolution, a projection and an attention head all read in one stream.
//!
//! f32 on the CPU runs on kernels of ours; every other device and type runs the same mathematics through candle's
//! operations (`elsewhere.rs`). No result depends on the number of threads, and no row of a batch on the others: work is
//! cut at fixed places, and every sum has one order.
//!
//! [`Variable`]: super::autograd::Variable

mod activation;
mod arrange;
mod attention;
mod conv;
mod cpu;
mod elsewhere;
mod geglu;
mod linear;
mod norm;
mod optimize;
mod product;
mod resample;
mod stored;
mod winograd;
mod workspace;

pub use activation::{gelu, quick_gelu, silu};
pub use arrange::{concat_channels, sum};
pub use attention::attention;
pub use conv::{FrozenConv2d, Padding};
pub(crate) use cpu::filled;
pub use geglu::Geglu;
pub use linear::{FrozenLinear, matmul, matmul_stacked};
pub use norm::{GroupNorm, LayerNorm};
pub use optimize::{AdamWStep, adamw, sum_of_squares};
pub use resample::upsample_nearest_2x;
pub use stored::FrozenWeight;
pub(crate) use workspace::Workspace;

/// How f32 on the CPU is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Every sum as the definition has it.
    Exact,
    /// 3×3 convolutions by Winograd's minimal filtering, whose error is about twice as large.
    #[default]
    Fast,
}
