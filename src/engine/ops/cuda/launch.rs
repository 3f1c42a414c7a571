//! Launches of kernels, and memory for their results.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{DType, Error, Result, Storage, Tensor, bail};
use half::{bf16, f16};

/// Compiled by `build.rs`.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));
const MODULE: &str = "vstar";

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    /// The address of a contiguous tensor's first number.
    Tensor(&'a Tensor),
    /// The same, or a null pointer.
    Maybe(Option<&'a Tensor>),
    U32(u32),
    F32(f32),
}

/// Whether a tensor is where kernels run.
pub(super) fn has_device(x: &Tensor) -> bool {
    x.device().is_cuda()
}

/// A new tensor on the device of `like`, whose numbers a kernel is about to write.
pub(super) fn empty(shape: &[usize], dtype: DType, like: &Tensor) -> Result<Tensor> {
    let device = like.device().as_cuda_device()?.clone();
    let count: usize = shape.iter().product();
    // SAFETY: every kernel writes all of its result before anything on the device's one stream reads it.
    let storage = unsafe {
        match dtype {
            DType::F32 => CudaStorage::wrap_cuda_slice(device.alloc::<f32>(count)?, device),
            DType::BF16 => CudaStorage::wrap_cuda_slice(device.alloc::<bf16>(count)?, device),
            DType::F16 => CudaStorage::wrap_cuda_slice(device.alloc::<f16>(count)?, device),
            other => bail!("no kernel writes {other:?}"),
        }
    };
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

/// Launches a kernel for the type of `x`, on its device.
///
/// - `name`: without the type
/// - `grid`: blocks of `threads` threads
pub(super) fn run(
    name: &str,
    x: &Tensor,
    grid: (u32, u32, u32),
    threads: u32,
    arguments: &[Arg<'_>],
) -> Result<()> {
    let device = x.device().as_cuda_device()?;
    let function = format!("{name}_{}", x.dtype().as_str());
    let function = device.get_or_load_custom_func(&function, MODULE, PTX)?;
    let stream = device.cuda_stream();
    let mut values = Vec::with_capacity(arguments.len());
    for argument in arguments {
        values.push(match argument {
            Arg::Tensor(x) | Arg::Maybe(Some(x)) => Value::U64(address(x, &stream)?),
            Arg::Maybe(None) => Value::U64(0),
            Arg::U32(x) => Value::U32(*x),
            Arg::F32(x) => Value::F32(*x),
        });
    }
    let mut builder = function.builder();
    for value in &values {
        match value {
            Value::U32(x) => builder.arg(x),
            Value::U64(x) => builder.arg(x),
            Value::F32(x) => builder.arg(x),
        };
    }
    let config = LaunchConfig { grid_dim: grid, block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are those of the kernel's signature. The tensors outlive the launch, and memory that is freed
    // afterwards is freed in the order of the same stream.
    unsafe { builder.launch(config) }.map_err(Error::wrap)?;
    Ok(())
}

/// An argument as the driver takes it.
enum Value {
    U32(u32),
    U64(u64),
    F32(f32),
}

pub(super) fn address(x: &Tensor, stream: &CudaStream) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    let Some((start, _)) = layout.contiguous_offsets() else {
        bail!("a kernel's argument of {:?} is not contiguous", layout.dims());
    };
    let Storage::Cuda(storage) = &*storage else { bail!("a kernel's argument is not on a GPU") };
    fn of<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
        slice.device_ptr(stream).0
    }
    let first = match &storage.slice {
        CudaStorageSlice::F32(slice) => of(slice, stream),
        CudaStorageSlice::BF16(slice) => of(slice, stream),
        CudaStorageSlice::F16(slice) => of(slice, stream),
        _ => bail!("no kernel reads {:?}", storage.dtype()),
    };
    Ok(first + (start * storage.dtype().size_in_bytes()) as u64)
}
