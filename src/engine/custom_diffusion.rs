//! Custom Diffusion (Kumari et al., CVPR 2023): what is learnt, how, and what is done with the result.
//!
//! Only the key and value projections of the text cross-attention and one embedding row per concept are trained;
//! the result is a [`delta::Delta`], and several deltas merge in closed form.

pub mod adamw;
pub mod augment;
pub mod closed_form;
pub mod dataset;
pub mod delta;
mod file;
pub mod loss;
pub mod memory;
pub mod merge;
pub mod merge_base;
pub mod pack;
pub mod parameters;
pub mod tokens;
pub mod train;
