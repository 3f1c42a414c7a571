//! Custom Diffusion (Kumari et al., CVPR 2023): what is trained, and what is done with the result.
//!
//! Only the key and value projections of the text cross-attention and one embedding row per concept are trained;
//! the result is a [`delta::Delta`], and several deltas merge in closed form.

mod binding;
mod captions;
mod comparison;
mod compression;
pub(crate) mod concept;
pub(crate) mod delta;
pub(crate) mod delta_weights;
mod file;
mod fine_tuning;
mod initializer;
pub(crate) mod merge;
mod modifier_tokens;
mod parameters;
mod projections;
mod weight_change;

pub use self::compression::compress;
pub use self::concept::DeltaConcept;
pub use self::delta::{Delta, read_kv_weights};
pub use self::delta_weights::{DeltaWeights, Factors, kv_weights};
pub use self::fine_tuning::{FineTuning, train};
pub use self::merge::{
    Merge, MergePack, PackUse, RegularizationStatistics, StatisticsBase, captions_digest,
    encode_captions,
};
pub use self::modifier_tokens::TokenStart;
pub use self::parameters::{Parameters, Start};
pub use self::weight_change::weight_change;
