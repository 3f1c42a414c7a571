//! Stable Diffusion and Custom Diffusion.
//!
//! Synchronous, and without HTTP, SQL, storage or jobs: it takes images, numbers and domain values.
//!
//! What the service, the benchmarks and the tests use is named here. The layers that tests and benchmarks look into one
//! by one are public modules.

mod base_model;
mod composition;
mod conditioning;
mod custom_diffusion;
mod error;
mod flow;
mod key_values;
mod layers;
mod prompt;
mod sampler;
mod split;
mod training;

pub mod autograd;
pub mod clip;
pub mod device;
#[expect(
    unsafe_code,
    reason = "kernels use vector instructions and fill memory without clearing it first"
)]
pub mod ops;
pub mod random;
pub mod schedulers;
pub mod unet;
pub mod vae;
#[expect(unsafe_code, reason = "weights are mapped from their files")]
pub mod weights;

pub use self::base_model::{BaseModel, BaseModelConfig, check_folder, folder_digest};
pub use self::clip::Clip;
pub use self::composition::{Crop, find_boxes, outline};
pub use self::conditioning::{ConceptSet, ConceptUse, condition_prompt};
pub use self::custom_diffusion::{
    Delta, DeltaConcept, DeltaWeights, Factors, FineTuning, Merge, MergePack, PackUse, Parameters,
    RegularizationStatistics, Start, StatisticsBase, TokenStart, captions_digest, compress,
    encode_captions, kv_weights, read_kv_weights, train, weight_change,
};
pub use self::error::{EngineError, Result};
pub use self::flow::Flow;
pub use self::key_values::{KeyValue, KeyValues};
pub use self::prompt::PromptEncoder;
pub use self::sampler::{
    AttentionMaps, DenoisingState, InitImage, PromptKeyValues, RunningBatch, RunningImage,
    SampleRequest, cover, denoise, encode_init, images, sample, step,
};
pub use self::training::{
    Batch, CaptionedImage, FrozenModel, Guide, LazyImage, LossGradient, Method, Objective, Observe,
    Parameter, ParameterState, StepMemory, StepReport, Trainer, TrainerState, TrainingConcept,
    TrainingInput, TrainingPhase, TrainingProgress, loss_gradient,
};

/// The crate's version and, behind the `+`, a digest of the engine's sources: what an image's bytes depend on.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("VSTAR_ENGINE"));
