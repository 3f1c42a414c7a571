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
    /// The device has less memory than the work takes. Less of it at once may fit.
    #[error("the device ran out of memory")]
    OutOfMemory(#[source] candle_core::Error),
    /// The device or an operation failed. This is not the caller's fault.
    #[error("tensor operation failed")]
    Tensor(#[source] candle_core::Error),
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        match is_out_of_memory(&error) {
            true => Self::OutOfMemory(error),
            false => Self::Tensor(error),
        }
    }
}

/// Whether a device has no memory for what was asked of it.
pub(crate) fn is_out_of_memory(error: &candle_core::Error) -> bool {
    // The driver's, cuBLAS's and cuDNN's errors arrive boxed, with the name of their code in the text.
    let text = format!("{error:?}");
    ["CUDA_ERROR_OUT_OF_MEMORY", "STATUS_ALLOC_FAILED"].iter().any(|code| text.contains(code))
}

pub type Result<T, E = EngineError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_that_fails_is_told_from_other_failures_of_the_device() {
        let driver = |code: &str| {
            let error = std::io::Error::other(format!("DriverError({code})"));
            EngineError::from(candle_core::Error::Cuda(error.into()).bt())
        };

        let full = driver("CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\"");
        let other = driver("CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\"");

        assert!(matches!(full, EngineError::OutOfMemory(_)), "{full:?}");
        assert!(matches!(other, EngineError::Tensor(_)), "{other:?}");
    }
}
