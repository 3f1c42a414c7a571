//! Convolutions by cuDNN, which gathers the pixels of a tile on the fly and never stores them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t as BackwardAlgorithm,
    cudnnConvolutionFwdAlgo_t as ForwardAlgorithm, cudnnConvolutionMode_t, cudnnMathType_t,
    cudnnTensorFormat_t,
};
use candle_core::cuda_backend::cudarc::cudnn::{
    ConvBackwardData, ConvDescriptor, ConvForward, Cudnn, CudnnDataType, FilterDescriptor,
    TensorDescriptor,
};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{DType, Error, Result, Storage, Tensor, WithDType, bail};
use half::{bf16, f16};

use super::{ConvolutionSizes, Window};

/// The only fast algorithm that takes NHWC and gives the same bits each time, forward and backward.
const FORWARD: ForwardAlgorithm =
    ForwardAlgorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
const BACKWARD: BackwardAlgorithm = BackwardAlgorithm::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;

/// A type that cuDNN multiplies on tensor cores.
trait Number: CudaDType + WithDType + CudnnDataType + DeviceRepr {}

impl Number for bf16 {}
impl Number for f16 {}

thread_local! {
    /// A handle belongs to one thread.
    static HANDLES: RefCell<HashMap<DeviceId, Arc<Cudnn>>> = RefCell::default();
}

/// A convolution, or with `backward` the gradient of its images.
///
/// - `x`: the images, or the gradient of the result
/// - `weight`: `(filters, kernel, kernel, channels)`
pub(super) fn convolve(
    x: &Tensor,
    weight: &Tensor,
    window: Window,
    sizes: ConvolutionSizes,
    backward: bool,
) -> Result<Tensor> {
    match x.dtype() {
        DType::BF16 => of_type::<bf16>(x, weight, window, sizes, backward),
        DType::F16 => of_type::<f16>(x, weight, window, sizes, backward),
        other => bail!("convolutions of {other:?} are not cuDNN's"),
    }
}

fn of_type<T: Number>(
    x: &Tensor,
    weight: &Tensor,
    window: Window,
    sizes: ConvolutionSizes,
    backward: bool,
) -> Result<Tensor> {
    let device = x.device().as_cuda_device()?;
    let descriptors =
        Descriptors::<T>::new(&handle(device)?, window, sizes).map_err(Error::wrap)?;
    let ConvolutionSizes { images, input, channels, output, filters } = sizes;
    let shape = match backward {
        false => (images, output.0, output.1, filters),
        true => (images, input.0, input.1, channels),
    };
    // SAFETY: cuDNN writes all of it before anything on the device's one stream reads it.
    let mut result = unsafe { device.alloc::<T>(shape.0 * shape.1 * shape.2 * shape.3) }?;
    with_slice(x, |x| {
        with_slice(weight, |weight| {
            descriptors.run(device, &x, &weight, &mut result.slice_mut(..), backward)
        })
    })?;
    let storage = CudaStorage::wrap_cuda_slice(result, device.clone());
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

/// Calls `f` with the numbers of a contiguous tensor.
fn with_slice<T: CudaDType, R>(
    x: &Tensor,
    f: impl FnOnce(CudaView<'_, T>) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a convolution's argument of {:?} is not contiguous", layout.dims());
    };
    let Storage::Cuda(storage) = &*storage else {
        bail!("a convolution's argument is not on a GPU")
    };
    f(storage.as_cuda_slice::<T>()?.slice(start..end))
}

fn handle(device: &CudaDevice) -> Result<Arc<Cudnn>> {
    HANDLES.with_borrow_mut(|handles| {
        if let Some(handle) = handles.get(&device.id()) {
            return Ok(handle.clone());
        }
        let handle = Cudnn::new(device.cuda_stream()).map_err(Error::wrap)?;
        handles.insert(device.id(), handle.clone());
        Ok(handle)
    })
}

/// What cuDNN has to know of a convolution.
struct Descriptors<T> {
    convolution: ConvDescriptor<f32>,
    images: TensorDescriptor<T>,
    filters: FilterDescriptor<T>,
    result: TensorDescriptor<T>,
}

type CudnnResult<T> = std::result::Result<T, candle_core::cuda_backend::cudarc::cudnn::CudnnError>;

impl<T: Number> Descriptors<T> {
    fn new(cudnn: &Arc<Cudnn>, window: Window, sizes: ConvolutionSizes) -> CudnnResult<Self> {
        let Window { kernel, stride, top, left } = window;
        let ConvolutionSizes { images, input, channels, output, filters } = sizes;
        let int = |x: usize| x as i32;
        let mut convolution = cudnn.create_conv2d::<f32>(
            [int(top), int(left)],
            [int(stride); 2],
            [1; 2],
            cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
        )?;
        convolution.set_math_type(cudnnMathType_t::CUDNN_TENSOR_OP_MATH)?;
        // Sizes are always given in the order NCHW.
        let format = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let tensor = |channels: usize, (height, width): (usize, usize)| {
            cudnn.create_4d_tensor::<T>(format, [images, channels, height, width].map(int))
        };
        Ok(Self {
            convolution,
            images: tensor(channels, input)?,
            filters: cudnn
                .create_4d_filter::<T>(format, [filters, channels, kernel, kernel].map(int))?,
            result: tensor(filters, output)?,
        })
    }

    fn run(
        &self,
        device: &CudaDevice,
        x: &CudaView<'_, T>,
        weight: &CudaView<'_, T>,
        result: &mut CudaViewMut<'_, T>,
        backward: bool,
    ) -> Result<()> {
        let overwrite = (T::one(), T::zero());
        if backward {
            let call = ConvBackwardData {
                conv: &self.convolution,
                dx: &self.images,
                w: &self.filters,
                dy: &self.result,
            };
            let mut workspace =
                workspace(device, call.get_workspace_size(BACKWARD).map_err(Error::wrap)?)?;
            // SAFETY: the slices have the types and sizes that the descriptors say.
            unsafe { call.launch(BACKWARD, Some(&mut workspace), overwrite, result, weight, x) }
                .map_err(Error::wrap)
        } else {
            let call = ConvForward {
                conv: &self.convolution,
                x: &self.images,
                w: &self.filters,
                y: &self.result,
            };
            let mut workspace =
                workspace(device, call.get_workspace_size(FORWARD).map_err(Error::wrap)?)?;
            // SAFETY: likewise.
            unsafe { call.launch(FORWARD, Some(&mut workspace), overwrite, x, weight, result) }
                .map_err(Error::wrap)
        }
    }
}

fn workspace(device: &CudaDevice, bytes: usize) -> Result<CudaSlice<u8>> {
    // SAFETY: cuDNN reads nothing from it that it has not written.
    unsafe { device.alloc::<u8>(bytes.max(1)) }
}
