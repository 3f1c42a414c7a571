//! CPU or CUDA, and which dtype where. Beside the launches of kernels in `ops::cuda`, the only `cfg(feature = "cuda")`.
//!
//! CUDA's libraries are loaded at run time (ADR 0008), and a device has one stream (ADR 0009).

use candle_core::{DType, Device};

use super::{
    error::{EngineError, Result},
    ops::{InstructionSet, Precision, test_kernels},
};

/// Picks a device by its name: `cpu`, or `cuda:0` in a build with the feature `cuda`.
///
/// # Errors
/// [`EngineError::InvalidInput`] that says what is missing: the name, the feature, the driver, the GPU, its compute
/// capability or CUDA's libraries.
pub fn device_named(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let ordinal = match name.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|ordinal| ordinal.parse::<usize>().ok()),
        None => None,
    };
    let Some(ordinal) = ordinal else {
        return Err(EngineError::InvalidInput(format!(
            "`{name}` is not a device: write cpu or cuda:0"
        )));
    };
    let device = cuda::open(ordinal).map_err(|missing| {
        EngineError::InvalidInput(format!("device cuda:{ordinal} cannot be used: {missing}"))
    })?;
    for dtype in [compute_dtype(&device), DType::F32] {
        for wrong in test_kernels(&device, dtype) {
            tracing::warn!("kernels are turned off, which makes the device slower: {wrong}");
        }
    }
    Ok(device)
}

/// The type that frozen weights and activations have on a device.
///
/// The time embedding, losses, and whatever is trained stay in f32 everywhere.
///
/// | device | dtype | because |
/// |---|---|---|
/// | CPU | f32 | candle cannot convolve bf16 on the CPU, and f16 is slower |
/// | CUDA, compute capability 8.0 and up | bf16 | the range of f32: neither logits nor gradients overflow |
/// | CUDA, older | f16 | candle compiles no bf16 kernels for it |
pub fn compute_dtype(device: &Device) -> DType {
    match cuda::capability(device) {
        None => DType::F32,
        Some(capability) if capability >= (8, 0) => DType::BF16,
        Some(_) => DType::F16,
    }
}

/// How a device computes in `f32`, `bf16` or `f16`, or in its own dtype: the type of weights and activations, and how f32 is multiplied.
///
/// A CPU's tensors are f32 in any case. In bf16, it rounds the factors of products.
///
/// # Errors
/// [`EngineError::InvalidInput`] for another name, or if a CPU cannot do this.
pub fn computing_in(device: &Device, wanted: Option<&str>) -> Result<(DType, Precision)> {
    let Some(wanted) = wanted else { return Ok((compute_dtype(device), Precision::default())) };
    let dtype = dtype_named(wanted)?;
    let refused = |reason: &str| Err(EngineError::InvalidInput(reason.to_owned()));
    match dtype {
        _ if !device.is_cpu() => Ok((dtype, Precision::default())),
        DType::F32 => Ok((DType::F32, Precision::default())),
        DType::BF16 if InstructionSet::used().multiplies_bf16() => {
            Ok((DType::F32, Precision::Bf16))
        }
        DType::BF16 => refused(
            "this CPU has no products of bf16 numbers (AVX512-BF16), or VSTAR_ISA forbids them; use f32",
        ),
        _ => refused("a CPU computes in f32, or in bf16 where it has AVX512-BF16"),
    }
}

/// The type called `f32`, `bf16` or `f16`.
///
/// # Errors
/// [`EngineError::InvalidInput`] for another name.
pub fn dtype_named(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        _ => Err(EngineError::InvalidInput(format!(
            "`{name}` is not a precision: write f32, bf16 or f16"
        ))),
    }
}

/// Memory that is free on a GPU; `None` on the CPU, or if the driver does not say.
pub fn free_bytes(device: &Device) -> Option<usize> {
    cuda::free_bytes(device)
}

/// Gives memory that was freed back to the driver, for whoever asks next: after a failed allocation, what is left may be in
/// pieces that are too small. Nothing happens on the CPU.
pub fn release_memory(device: &Device) {
    cuda::release_memory(device);
}

/// The names of all devices that `all` stands for: `cuda:0`, `cuda:1` and so on.
///
/// # Errors
/// [`EngineError::InvalidInput`] if there is none.
pub fn all_devices() -> Result<Vec<String>> {
    let missing = |missing: String| {
        EngineError::InvalidInput(format!("there is no device for `all`: {missing}"))
    };
    match cuda::count().map_err(missing)? {
        0 => Err(missing("this machine shows no GPU".to_owned())),
        count => Ok((0..count).map(|ordinal| format!("cuda:{ordinal}")).collect()),
    }
}

/// Memory that jobs can have: what is free on a GPU, or what the machine of a CPU has; `None` if neither is known.
pub fn usable_bytes(device: &Device) -> Option<usize> {
    if !device.is_cpu() {
        return free_bytes(device);
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(1024 * total.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?)
}

/// What the last bits of a result depend on, apart from the model and the request, such as `f32, cpu avx512, winograd`.
pub fn arithmetic(device: &Device, dtype: DType, precision: Precision) -> String {
    let dtype = dtype.as_str();
    match cuda::capability(device) {
        Some((major, minor)) => format!("{dtype}, cuda {major}.{minor}"),
        None => match precision {
            Precision::Exact => format!("{dtype}, cpu {}", InstructionSet::used().as_str()),
            Precision::Fast => {
                format!("{dtype}, cpu {}, winograd", InstructionSet::used().as_str())
            }
            Precision::Bf16 => {
                format!("{dtype} and bf16, cpu {}, winograd", InstructionSet::used().as_str())
            }
        },
    }
}

#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "the driver's memory pool is set up through its C interface")]
mod cuda {
    use candle_core::Device;
    use candle_core::cuda_backend::cudarc::driver::{
        CudaContext, result, sys::CUmemPool_attribute,
    };

    /// What the kernels were compiled for, as in `CUDA_COMPUTE_CAP=80`.
    const BUILT_FOR: Option<&str> = option_env!("CUDA_COMPUTE_CAP");

    /// GPUs of this machine.
    pub(super) fn count() -> Result<usize, String> {
        let count = CudaContext::device_count().map_err(|error| {
            format!(
                "no NVIDIA driver answers ({error}); install one of release 580 or later, and give a container its GPUs"
            )
        })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub(super) fn open(ordinal: usize) -> Result<Device, String> {
        let count = count()?;
        if ordinal >= count {
            return Err(format!("this machine shows {count} GPUs, counted from 0"));
        }
        let (major, minor) = CudaContext::new(ordinal)
            .and_then(|context| context.compute_capability())
            .map_err(|error| format!("the driver refuses it ({error})"))?;
        let built_for = BUILT_FOR.and_then(|number| number.parse::<i32>().ok()).unwrap_or(80);
        if 10 * major + minor < built_for {
            return Err(format!(
                "its compute capability is {major}.{minor}, and this program was built for {}.{} and up; build it with CUDA_COMPUTE_CAP={major}{minor}",
                built_for / 10,
                built_for % 10
            ));
        }
        // One stream, not one per thread, so that the work of several threads is done in the order in which they submit
        // it.
        let device = Device::new_cuda_with_stream(ordinal).map_err(|error| {
            format!("{error}; libcublas, libcurand and libnvrtc of CUDA 12 or 13 must be where the loader finds them")
        })?;
        keep_freed_memory(&device);
        Ok(device)
    }

    /// Lets the device's pool keep freed memory. By default every synchronization returns it to the driver, and the
    /// next step has to allocate it again. A device without pools keeps nothing.
    fn keep_freed_memory(device: &Device) {
        let Ok(device) = device.as_cuda_device() else { return };
        // SAFETY: all work on the device goes through its one stream, which needs no events to be in order.
        unsafe { device.disable_event_tracking() };
        let mut threshold = u64::MAX;
        // SAFETY: the pool is the device's own, and the attribute a 64-bit number.
        let _ = unsafe {
            result::device::get_default_mem_pool(device.cuda_stream().context().cu_device())
                .and_then(|pool| {
                    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                    let threshold = std::ptr::from_mut(&mut threshold).cast();
                    result::mem_pool::set_attribute(pool, attribute, threshold)
                })
        };
    }

    pub(super) fn release_memory(device: &Device) {
        let Ok(device) = device.as_cuda_device() else { return };
        // Work that is queued may still use memory whose tensors are dropped.
        if device.cuda_stream().synchronize().is_err() {
            return;
        }
        // SAFETY: the pool is the device's own, and what is in use stays.
        let _ = unsafe {
            result::device::get_default_mem_pool(device.cuda_stream().context().cu_device())
                .and_then(|pool| result::mem_pool::trim_to(pool, 0))
        };
    }

    /// Compute capability, `None` on the CPU.
    pub(super) fn capability(device: &Device) -> Option<(i32, i32)> {
        let device = device.as_cuda_device().ok()?;
        // The capability was known when the device was opened.
        Some(device.cuda_stream().context().compute_capability().unwrap_or((8, 0)))
    }

    pub(super) fn free_bytes(device: &Device) -> Option<usize> {
        let device = device.as_cuda_device().ok()?;
        let (free, _) = device.cuda_stream().context().mem_get_info().ok()?;
        Some(free)
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use candle_core::Device;

    const NOT_BUILT_IN: &str =
        "this program was built without the feature `cuda`: build one with it (docs/gpu.md)";

    pub(super) fn count() -> Result<usize, String> {
        Err(NOT_BUILT_IN.to_owned())
    }

    pub(super) fn open(_ordinal: usize) -> Result<Device, String> {
        Err(NOT_BUILT_IN.to_owned())
    }

    pub(super) fn release_memory(_device: &Device) {}

    pub(super) fn capability(_device: &Device) -> Option<(i32, i32)> {
        None
    }

    pub(super) fn free_bytes(_device: &Device) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_refused_with_what_is_missing() {
        let far = device_named("cuda:64").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            ["the feature `cuda`", "driver", "GPUs"].iter().any(|part| far.contains(part)),
            "{far}"
        );

        let other = device_named("tpu").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(other.contains("`tpu` is not a device: write cpu or cuda:0"), "{other}");
    }

    #[test]
    fn the_cpu_computes_in_f32() {
        assert_eq!(compute_dtype(&Device::Cpu), DType::F32);
    }

    #[test]
    fn a_cpu_computes_in_what_it_can() {
        let computing = |dtype| computing_in(&Device::Cpu, dtype);
        assert_eq!(computing(None).unwrap(), (DType::F32, Precision::Fast));
        assert_eq!(computing(Some("f32")).unwrap(), (DType::F32, Precision::Fast));
        assert!(computing(Some("f16")).unwrap_err().to_string().contains("f32"));
        match (InstructionSet::used().multiplies_bf16(), computing(Some("bf16"))) {
            (true, computed) => assert_eq!(computed.unwrap(), (DType::F32, Precision::Bf16)),
            (false, refused) => {
                assert!(refused.unwrap_err().to_string().contains("AVX512-BF16"));
            }
        }
    }
}
