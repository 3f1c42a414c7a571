//! Stable Diffusion and Custom Diffusion.
//!
//! Synchronous, and without HTTP, SQL, storage or jobs: it takes images, numbers and domain values.

pub mod autograd;
pub mod base_model;
pub mod clip;
pub mod conditioning;
pub mod custom_diffusion;
pub mod device;
mod layers;
pub mod ops;
pub mod random;
mod rows;
pub mod sampler;
pub mod schedulers;
pub mod unet;
pub mod vae;
pub mod weights;

/// The crate's version and, behind the `+`, a digest of the engine's sources: what a picture's bytes depend on.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("VSTAR_ENGINE"));

/// Why the engine could not finish what it was asked to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A weight that the architecture needs is not in the checkpoint.
    #[error("weight `{name}` is missing from {file}")]
    WeightMissing { name: String, file: String },
    /// The checkpoint and this code disagree about the architecture.
    #[error("weight `{name}` is {actual:?}, expected {expected:?}")]
    WeightShape { name: String, expected: Vec<usize>, actual: Vec<usize> },
    /// A file of the model folder cannot be read or is not what its name says.
    #[error("{path}: {reason}")]
    ModelFile { path: String, reason: String },
    /// The request does not fit the model: the caller can mend it.
    #[error("{0}")]
    InvalidInput(String),
    /// A concept was asked for, and the prompt's keys and values are those of the base model all the same.
    #[error("the concepts of the request change nothing in prompt `{prompt}`")]
    WithoutEffect { prompt: String },
    /// Further steps would only write noise into the delta.
    #[error("loss became {loss} at step {step}")]
    Diverged { step: usize, loss: f32 },
    /// The numbers of a concept are too large for the network: further steps would draw nothing.
    #[error("the picture is not finite after step {step}")]
    NotFinite { step: usize },
    /// The observer asked to stop.
    #[error("stopped")]
    Stopped,
    /// The device or an operation failed; not the caller's doing.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}

pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// What an observer answers after each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    Stop,
}
