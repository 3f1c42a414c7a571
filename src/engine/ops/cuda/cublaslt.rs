//! Products by cuBLASLt, which adds a bias and another matrix to a result before it is stored.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ptr::from_ref;

use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulDescOpaque_t,
    cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayoutOpaque_t, cudaDataType,
};
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{DType, Error, Result, Tensor, bail};

use super::launch::{address, empty};

/// Most memory that an algorithm may use beside the matrices, as NVIDIA recommends for cards of compute capability 9.0.
const WORKSPACE_BYTES: usize = 32 << 20;
/// What addresses are multiples of: numbers are loaded 16 bytes at a time.
const ALIGNMENT: u32 = 16;
/// Plans of one device. Sizes of images and batches are many, but few of them are in use.
const MAX_PLANS: usize = 4096;

thread_local! {
    static CONTEXTS: RefCell<HashMap<DeviceId, Context>> = RefCell::default();
}

/// [`super::product`], summed in f32 and rounded once. `None` if an address is not aligned.
///
/// All arguments are contiguous, of one type of 16 bits, and the width and the depth are multiples of 8.
pub(super) fn product(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    other: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let (rows, depth) = x.dims2()?;
    let width = weight.dim(0)?;
    let sizes = Sizes {
        rows,
        depth,
        width,
        dtype: x.dtype(),
        has_bias: bias.is_some(),
        has_other: other.is_some(),
    };
    // It also makes this device the thread's own, which cuBLASLt relies on.
    let y = empty(&[rows, width], x.dtype(), x)?;
    let device = x.device().as_cuda_device()?;
    let stream = device.cuda_stream();
    let addresses = Addresses {
        x: address(x, &stream)?,
        weight: address(weight, &stream)?,
        bias: bias.map(|bias| address(bias, &stream)).transpose()?,
        other: other.map(|other| address(other, &stream)).transpose()?,
        result: address(&y, &stream)?,
    };
    if !addresses.are_aligned() {
        return Ok(None);
    }
    CONTEXTS.with_borrow_mut(|contexts| {
        let context = match contexts.entry(device.id()) {
            Entry::Occupied(context) => context.into_mut(),
            Entry::Vacant(place) => place.insert(Context::new().map_err(Error::wrap)?),
        };
        context.run(device, sizes, &addresses)
    })?;
    Ok(Some(y))
}

/// What an algorithm is chosen by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Sizes {
    rows: usize,
    depth: usize,
    width: usize,
    dtype: DType,
    has_bias: bool,
    has_other: bool,
}

/// Where the matrices of a product are.
struct Addresses {
    x: u64,
    weight: u64,
    bias: Option<u64>,
    other: Option<u64>,
    result: u64,
}

impl Addresses {
    fn are_aligned(&self) -> bool {
        let Self { x, weight, bias, other, result } = *self;
        let all = [Some(x), Some(weight), bias, other, Some(result)];
        all.into_iter().flatten().all(|address| address.is_multiple_of(ALIGNMENT.into()))
    }
}

/// A handle of one thread, and what was chosen for the products that it has computed.
struct Context {
    handle: cublasLtHandle_t,
    plans: HashMap<Sizes, Plan>,
}

impl Context {
    fn new() -> std::result::Result<Self, CublasError> {
        Ok(Self { handle: result::create_handle()?, plans: HashMap::new() })
    }

    fn run(&mut self, device: &CudaDevice, sizes: Sizes, addresses: &Addresses) -> Result<()> {
        if self.plans.len() >= MAX_PLANS {
            self.plans.clear();
        }
        let plan = match self.plans.entry(sizes) {
            Entry::Occupied(plan) => plan.into_mut(),
            Entry::Vacant(place) => place.insert(Plan::new(self.handle, sizes, addresses.bias)?),
        };
        plan.run(self.handle, device, addresses)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: this is the only owner. When a thread ends, nothing can be done about an error.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// A product in cuBLASLt's terms, whose matrices are column-major: the transpose of the result is `W xᵀ`.
struct Plan {
    description: Description,
    weight: Layout,
    x: Layout,
    result: Layout,
    has_other: bool,
    algorithm: cublasLtMatmulHeuristicResult_t,
}

impl Plan {
    fn new(handle: cublasLtHandle_t, sizes: Sizes, bias: Option<u64>) -> Result<Self> {
        let numbers = match sizes.dtype {
            DType::BF16 => cudaDataType::CUDA_R_16BF,
            DType::F16 => cudaDataType::CUDA_R_16F,
            other => bail!("products of {other:?} are not cuBLASLt's"),
        };
        Self::of_type(handle, sizes, bias, numbers).map_err(Error::wrap)
    }

    fn of_type(
        handle: cublasLtHandle_t,
        Sizes { rows, depth, width, has_other, .. }: Sizes,
        bias: Option<u64>,
        numbers: cudaDataType,
    ) -> std::result::Result<Self, CublasError> {
        let description = Description::new()?;
        const TRANSPOSED: i32 = 1;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        if let Some(bias) = bias {
            let with_bias = cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            description.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &with_bias)?;
            description.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let weight = Layout::new(numbers, depth, width)?;
        let x = Layout::new(numbers, depth, rows)?;
        let result = Layout::new(numbers, width, rows)?;
        let preferences = Preferences::new()?;
        // SAFETY: all of them are alive.
        let algorithm = unsafe {
            result::get_matmul_algo_heuristic(
                handle,
                description.0,
                weight.0,
                x.0,
                result.0,
                result.0,
                preferences.0,
            )
        }?;
        Ok(Self { description, weight, x, result, has_other, algorithm })
    }

    fn run(
        &self,
        handle: cublasLtHandle_t,
        device: &CudaDevice,
        addresses: &Addresses,
    ) -> Result<()> {
        let stream = device.cuda_stream();
        // SAFETY: cuBLASLt reads nothing from it that it has not written.
        let workspace = unsafe { device.alloc::<u8>(self.algorithm.workspaceSize.max(1)) }?;
        let (workspace, _in_use) = workspace.device_ptr(&stream);
        let &Addresses { x, weight, bias, other, result } = addresses;
        if let Some(bias) = bias {
            let pointer = Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            self.description.set(pointer, &bias).map_err(Error::wrap)?;
        }
        let (one, share_of_other) = (1.0_f32, if self.has_other { 1.0_f32 } else { 0.0 });
        // SAFETY: the matrices have the sizes and the type of the layouts. They outlive the launch, and memory that is
        // freed afterwards is freed in the order of the same stream.
        unsafe {
            result::matmul(
                handle,
                self.description.0,
                from_ref(&one).cast(),
                from_ref(&share_of_other).cast(),
                weight as *const _,
                self.weight.0,
                x as *const _,
                self.x.0,
                other.unwrap_or(result) as *const _,
                self.result.0,
                result as *mut _,
                self.result.0,
                &self.algorithm.algo,
                workspace as *mut _,
                self.algorithm.workspaceSize,
                stream.cu_stream().cast(),
            )
        }
        .map_err(Error::wrap)
    }
}

/// What is computed.
struct Description(*mut cublasLtMatmulDescOpaque_t);

impl Description {
    fn new() -> std::result::Result<Self, CublasError> {
        let sums = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        Ok(Self(result::create_matmul_desc(sums, cudaDataType::CUDA_R_32F)?))
    }

    fn set<T>(&self, attribute: Attribute, value: &T) -> std::result::Result<(), CublasError> {
        // SAFETY: the value has this size, and is copied.
        unsafe {
            result::set_matmul_desc_attribute(
                self.0,
                attribute,
                from_ref(value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// The sizes and the type of a column-major matrix without gaps.
struct Layout(*mut cublasLtMatrixLayoutOpaque_t);

impl Layout {
    fn new(
        numbers: cudaDataType,
        rows: usize,
        columns: usize,
    ) -> std::result::Result<Self, CublasError> {
        let layout =
            result::create_matrix_layout(numbers, rows as u64, columns as u64, rows as i64)?;
        Ok(Self(layout))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What an algorithm may use.
struct Preferences(cublasLtMatmulPreference_t);

impl Preferences {
    fn new() -> std::result::Result<Self, CublasError> {
        let this = Self(result::create_matmul_pref()?);
        this.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE_BYTES)?;
        for aligned in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            this.set(aligned, &ALIGNMENT)?;
        }
        Ok(this)
    }

    fn set<T>(&self, preference: Preference, value: &T) -> std::result::Result<(), CublasError> {
        // SAFETY: the value has this size, and is copied.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0,
                preference,
                from_ref(value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Preferences {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
