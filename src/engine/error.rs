//! Why the engine could not do what it was asked.

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
    /// The request does not fit the model; the caller can correct it.
    #[error("{0}")]
    InvalidInput(String),
    /// A class image cannot be decoded.
    #[error("{0}")]
    ClassImage(String),
    /// The requested concepts leave the prompt's keys and values as the base model has them.
    #[error("the concepts of the request change nothing in prompt `{prompt}`")]
    WithoutEffect { prompt: String },
    /// Further steps would only write noise into the delta.
    #[error("loss became {loss} at step {step}")]
    Diverged { step: usize, loss: f32 },
    /// The UNet's prediction overflowed, for instance because a concept's weights are too large.
    #[error("the image is not finite after step {step}")]
    NotFinite { step: usize },
    /// The observer asked to stop.
    #[error("stopped")]
    Stopped,
    /// The device or an operation failed. This is not the caller's fault.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}

pub type Result<T, E = EngineError> = std::result::Result<T, E>;
