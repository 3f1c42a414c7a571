//! What a request can say about how images are generated.

use crate::domain::sample::Determinism;
use crate::domain::scheduler::SchedulerName;

/// The settings that a request gives.
#[derive(Clone, Debug, Default)]
pub struct SampleOptions {
    pub n: Option<usize>,
    pub first_index: Option<usize>,
    pub seed: Option<u64>,
    pub num_inference_steps: Option<usize>,
    pub guidance_scale: Option<f64>,
    pub unconditional_strength: Option<f64>,
    pub guidance_interval: Option<[f64; 2]>,
    pub scheduler: Option<SchedulerName>,
    pub eta: Option<f64>,
    pub width: Option<usize>,
    pub height: Option<usize>,
    pub preview_every: Option<usize>,
    pub determinism: Option<Determinism>,
}
