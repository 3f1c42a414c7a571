//! The operations of the networks, and their gradients.
//!
//! Each operation is a file with its public type or function, which chooses by device: `<op>/cpu.rs` has our kernel for
//! f32 on the CPU, `<op>/candle.rs` the same mathematics in candle's tensors, for every other device and type; on a GPU it
//! calls a kernel of `cuda` where there is one. Below them lie `gemm`, the matrix product, and small files of what several operations need.
//!
//! Weights of a frozen model are fields of these types and not [`Variable`]s, so that a backward pass computes
//! gradients of inputs only. Images are `(batch, height, width, channels)`: the channels of a pixel are contiguous for
//! convolutions, projections and attention heads alike.
//!
//! No result depends on the number of threads, and no element of a batch on the others: work is cut at fixed places,
//! and every sum has one order.
//!
//! [`Variable`]: super::autograd::Variable

mod activation;
mod attention;
mod buffer;
mod chunks;
mod concat;
mod conv;
mod cuda;
mod geglu;
mod gemm;
mod group_norm;
mod instructions;
mod layer_norm;
mod linear;
mod math;
mod matmul;
mod normalization;
mod once;
mod optimize;
mod precision;
mod self_test;
mod shape;
mod simd;
mod similarity;
pub(super) mod sum;
mod upsample;
mod vector;
mod weight;
mod workspace;

pub use activation::{gelu, quick_gelu, silu};
pub use attention::attention;
pub(crate) use buffer::filled;
pub use concat::concat_channels;
pub use conv::{FrozenConv2d, Padding};
pub use geglu::Geglu;
pub use gemm::{HeldCopies, TrainingCopies};
pub use group_norm::GroupNorm;
pub use instructions::InstructionSet;
pub use layer_norm::LayerNorm;
pub use linear::FrozenLinear;
pub use matmul::{matmul, matmul_stacked};
pub use optimize::{AdamWStep, adamw, sum_of_squares};
pub use precision::Precision;
pub(crate) use self_test::self_test as test_kernels;
pub use similarity::row_products;
pub use sum::sum;
pub use upsample::upsample_nearest_2x;
pub use weight::FrozenWeight;
pub(crate) use workspace::Workspace;
