//! Figures from features: how well images agree with their prompts and with photos, and how sure that is.
//!
//! Everything here is arithmetic on the host. The same features give the same figures: resamples are drawn by counters.

mod alignment;
mod composition;
mod kid;
mod report;
mod scene;
mod statistics;

pub use alignment::{among_photos, cosine, with_photos};
pub use kid::MAX_SUBSET;
pub use report::{ScoredSubject, Scores, report};
pub use statistics::{mean, mean_of, wilson};
