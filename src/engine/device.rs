//! CPU or CUDA, and which dtype where; the only `cfg(feature = "cuda")`.

use candle_core::{DType, Device};

use super::{EngineError, Result};

/// Picks a device by its name: `cpu`, or `cuda:0` in a build with the feature `cuda`.
pub fn device_named(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let ordinal = match name.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|ordinal| ordinal.parse::<usize>().ok()),
        None => None,
    };
    match ordinal {
        Some(ordinal) => cuda(ordinal),
        None => {
            Err(EngineError::InvalidInput(format!("`{name}` is not a device: write cpu or cuda:0")))
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device> {
    Ok(Device::new_cuda(ordinal)?)
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<Device> {
    Err(EngineError::InvalidInput(format!(
        "device cuda:{ordinal} needs a build with the feature cuda"
    )))
}

/// The type that frozen weights and activations have there.
///
/// The time embedding, losses, and whatever is trained stay in f32 everywhere.
pub fn compute_dtype(device: &Device) -> DType {
    // candle cannot convolve bf16 on the CPU, and f16 is slower than f32 there.
    if device.is_cpu() { DType::F32 } else { DType::BF16 }
}
