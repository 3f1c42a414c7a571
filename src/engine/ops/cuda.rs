//! Our kernels on a GPU: `cuda/kernels.cu`, compiled with the feature `cuda` and loaded when a device is first used.
//!
//! They compute what an operation's `candle.rs` computes, in one pass over memory instead of one for each step. Where there is
//! none for a type or a shape, candle's tensors are used as before. `ops::self_test` compares both when a device is opened, and turns
//! off kernels that disagree. `VSTAR_CUDA_KERNELS=off` turns off all of them, and `on` uses all of them without that test.

mod attention;
#[cfg_attr(not(feature = "cuda"), path = "cuda/no_cublaslt.rs")]
mod cublaslt;
#[cfg_attr(not(feature = "cudnn"), path = "cuda/no_cudnn.rs")]
mod cudnn;
#[cfg_attr(not(feature = "cuda"), path = "cuda/no_launch.rs")]
mod launch;

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use candle_core::{DType, Result, Tensor, bail};

pub(super) use self::attention::Attention;
use self::launch::Arg;
use crate::engine::error::is_out_of_memory;

/// Threads of a block.
const THREADS: u32 = 256;
/// Blocks of a pointwise kernel at most; each then takes several numbers.
const BLOCKS: usize = 8192;
/// Numbers of the gathered pixels that are in memory at once.
pub(crate) const UNFOLDED: usize = 1 << 27;

/// Kernels that are used or not together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Convolutions that cuDNN computes.
    Cudnn,
    /// Pixels that are gathered for the others.
    Convolution,
    /// Products to which cuBLASLt adds something.
    CublasLt,
    Sums,
    Norms,
    Pointwise,
    Attention,
}

/// A bit for each family that is turned off.
static OFF: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static TENSORS_ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Whether kernels of a family compute this tensor.
pub(super) fn has_kernels(x: &Tensor, family: Family) -> bool {
    launch::has_device(x)
        && matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16)
        && setting() != Setting::Off
        && OFF.load(Ordering::Relaxed) & bit(family) == 0
        && !TENSORS_ONLY.get()
}

/// What `VSTAR_CUDA_KERNELS` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// Kernels that agree with candle's tensors are used.
    Tested,
    /// `off`: none.
    Off,
    /// `on`: all, untested.
    On,
}

pub(super) fn setting() -> Setting {
    static SETTING: OnceLock<Setting> = OnceLock::new();
    *SETTING.get_or_init(|| match std::env::var("VSTAR_CUDA_KERNELS").as_deref() {
        Ok("off") => Setting::Off,
        Ok("on") => Setting::On,
        _ => Setting::Tested,
    })
}

fn bit(family: Family) -> u32 {
    1 << family as u32
}

/// From now on candle's tensors do what this family does.
pub(super) fn turn_off(family: Family) {
    OFF.fetch_or(bit(family), Ordering::Relaxed);
}

/// Runs `f` without kernels.
pub(super) fn in_tensors<T>(f: impl FnOnce() -> T) -> T {
    TENSORS_ONLY.set(true);
    let result = f();
    TENSORS_ONLY.set(false);
    result
}

/// Blocks for so many threads.
fn blocks(threads: usize) -> u32 {
    threads.div_ceil(THREADS as usize).clamp(1, BLOCKS) as u32
}

fn is_half(x: &Tensor) -> bool {
    matches!(x.dtype(), DType::BF16 | DType::F16)
}

/// Numbers of 16 bytes.
fn pack(x: &Tensor) -> usize {
    16 / x.dtype().size_in_bytes()
}

fn as_u32(count: usize, what: &str) -> Result<u32> {
    match u32::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => bail!("{count} {what} are too many for a kernel"),
    }
}

/// What a convolution reads around a pixel.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// Zeros above and to the left of an image; those below and to the right follow from the output's size.
    pub(super) top: usize,
    pub(super) left: usize,
}

/// Images `(images, height, width, channels)` and their convolution `(images, rows, columns, filters)`.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cudnn"), expect(dead_code, reason = "there is nothing to give it to"))]
pub(super) struct ConvolutionSizes {
    pub(super) images: usize,
    pub(super) input: (usize, usize),
    pub(super) channels: usize,
    pub(super) output: (usize, usize),
    pub(super) filters: usize,
}

impl ConvolutionSizes {
    /// Whether cuDNN has a fast algorithm: channels by the pack, and the same padding on both sides.
    fn are_cudnns(self, Window { kernel, stride, top, left }: Window) -> bool {
        let Self { input: (height, width), channels, output, filters, .. } = self;
        let along = |size: usize, padding: usize| {
            (size + 2 * padding + 1).checked_sub(kernel).map(|rest| rest.div_ceil(stride))
        };
        kernel > 1
            && channels.is_multiple_of(8)
            && filters.is_multiple_of(8)
            && along(height, top) == Some(output.0)
            && along(width, left) == Some(output.1)
    }
}

/// A convolution by cuDNN or, with `backward`, the gradient of its images. `None` where cuDNN is not there, or is not the one to ask.
///
/// - `x`: the images, or the gradient of the result
/// - `weight`: `(filters, kernel² · channels)`
pub(super) fn convolve(
    x: &Tensor,
    weight: &Tensor,
    window: Window,
    sizes: ConvolutionSizes,
    backward: bool,
) -> Result<Option<Tensor>> {
    let is_asked = cfg!(feature = "cudnn") && is_half(x) && sizes.are_cudnns(window);
    if !is_asked || !has_kernels(x, Family::Cudnn) {
        return Ok(None);
    }
    let result = cudnn::convolve(&x.contiguous()?, weight, window, sizes, backward);
    unless_it_fails(Family::Cudnn, result.map(Some))
}

/// `x Wᵀ + bias + other` in one pass, `(rows, width)`. `None` where cuBLASLt is not there, or is not the one to ask.
///
/// - `x`: `(rows, depth)`
/// - `weight`: `W`, `(width, depth)`
/// - `bias`: `(width,)`
/// - `other`: `(…, width)`, of as many numbers as the result
pub(super) fn product(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    other: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let (width, depth) = weight.dims2()?;
    let fills_packs = [width, depth].iter().all(|size| size.is_multiple_of(8));
    let is_asked = is_half(x) && fills_packs && (bias.is_some() || other.is_some());
    if !is_asked || !has_kernels(x, Family::CublasLt) {
        return Ok(None);
    }
    let of_type = |y: Option<&Tensor>| y.map(|y| y.to_dtype(x.dtype())?.contiguous()).transpose();
    let (bias, other) = (of_type(bias)?, of_type(other)?);
    let result =
        cublaslt::product(&x.contiguous()?, &weight.contiguous()?, bias.as_ref(), other.as_ref());
    unless_it_fails(Family::CublasLt, result)
}

/// What a library has computed. If it failed, it is turned off, and `None` says so.
fn unless_it_fails(library: Family, result: Result<Option<Tensor>>) -> Result<Option<Tensor>> {
    match result {
        Err(error) if !is_out_of_memory(&error) => {
            turn_off(library);
            tracing::warn!(%error, "{library:?} is turned off, which makes the device slower");
            Ok(None)
        }
        result => result,
    }
}

/// For each pixel of `output` the pixels that it reads: `(images · rows · columns, kernel² · channels)`.
///
/// - `x`: images or, for `backward`, gradients of results, `(images, height, width, channels)`
/// - `output`: rows and columns
pub(super) fn unfold(
    x: &Tensor,
    window: Window,
    (rows, columns): (usize, usize),
    backward: bool,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (images, height, width, channels) = x.dims4()?;
    let Window { kernel, stride, top, left } = window;
    let (pixels, area) = (images * rows * columns, kernel * kernel);
    let out = launch::empty(&[pixels, area * channels], x.dtype(), &x)?;
    let is_packed = channels.is_multiple_of(pack(&x));
    let count = pixels * area * channels / if is_packed { pack(&x) } else { 1 };
    let count = as_u32(count, "gathered numbers")?;
    let number = |x: usize| Arg::U32(x as u32);
    let arguments = [
        Arg::Tensor(&x),
        Arg::Tensor(&out),
        number(height),
        number(width),
        number(channels),
        number(rows),
        number(columns),
        number(kernel),
        number(stride),
        number(top),
        number(left),
        number(usize::from(backward)),
        number(usize::from(is_packed)),
        Arg::U32(count),
    ];
    launch::run("unfold", &x, (blocks(count as usize), 1, 1), THREADS, &arguments)?;
    Ok(out)
}

/// `y + bias + other`. A kernel writes it into `y`, which nothing else may hold.
///
/// - `bias`: of the last dimension
pub(super) fn finish(y: Tensor, bias: Option<&Tensor>, other: Option<&Tensor>) -> Result<Tensor> {
    let width = y.dim(candle_core::D::Minus1)?;
    let of_type = |x: Option<&Tensor>| x.map(|x| x.to_dtype(y.dtype())?.contiguous()).transpose();
    let (bias, other) = (of_type(bias)?, of_type(other)?);
    if bias.is_none() && other.is_none() {
        return Ok(y);
    }
    let has_kernel = has_kernels(&y, Family::Sums);
    if !has_kernel || !width.is_multiple_of(pack(&y)) || !y.is_contiguous() {
        let y = match &bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        return match &other {
            Some(other) => y + other,
            None => Ok(y),
        };
    }
    let count = y.elem_count() / pack(&y);
    let arguments = [
        Arg::Tensor(&y),
        Arg::Maybe(bias.as_ref()),
        Arg::Maybe(other.as_ref()),
        Arg::U32((width / pack(&y)) as u32),
        Arg::U32(as_u32(count, "packs")?),
    ];
    launch::run("finish", &y, (blocks(count), 1, 1), THREADS, &arguments)?;
    Ok(y)
}

/// A group norm, or its gradient if `dy` is given.
///
/// - `x`: `(batch, height, width, channels)`
/// - `weight`, `bias`: `(channels,)`
/// - `shift`: `(batch, channels)`
pub(super) fn group_norm(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    shift: Option<&Tensor>,
    (groups, eps, silu): (usize, f64, bool),
    dy: Option<&Tensor>,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (batch, height, width, channels) = x.dims4()?;
    let of_type = |x_: &Tensor| x_.to_dtype(x.dtype())?.contiguous();
    let (weight, bias) = (of_type(weight)?, of_type(bias)?);
    let shift = shift.map(|shift| shift.to_dtype(DType::F32)?.contiguous()).transpose()?;
    let dy = dy.map(of_type).transpose()?;
    let out = launch::empty(x.dims(), x.dtype(), &x)?;
    let mut arguments =
        vec![Arg::Tensor(&x), Arg::Tensor(&weight), Arg::Tensor(&bias), Arg::Maybe(shift.as_ref())];
    arguments.extend(dy.as_ref().map(Arg::Tensor));
    arguments.extend([
        Arg::Tensor(&out),
        Arg::U32(as_u32(height * width, "pixels")?),
        Arg::U32(channels as u32),
        Arg::U32(groups as u32),
        Arg::F32(eps as f32),
        Arg::U32(u32::from(silu)),
    ]);
    let name = if dy.is_some() { "group_norm_backward" } else { "group_norm" };
    launch::run(name, &x, ((batch * groups) as u32, 1, 1), 2 * THREADS, &arguments)?;
    Ok(out)
}

/// A layer norm of the last dimension, or its gradient if `dy` is given.
pub(super) fn layer_norm(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    dy: Option<&Tensor>,
) -> Result<Tensor> {
    /// A warp takes a row.
    const WARP: u32 = 32;
    let x = x.contiguous()?;
    let of_type = |x_: &Tensor| x_.to_dtype(x.dtype())?.contiguous();
    let (weight, bias, dy) = (of_type(weight)?, of_type(bias)?, dy.map(of_type).transpose()?);
    let width = weight.elem_count();
    let rows = as_u32(x.elem_count() / width, "rows")?;
    let out = launch::empty(x.dims(), x.dtype(), &x)?;
    let arguments = [
        Arg::Tensor(&x),
        Arg::Tensor(&weight),
        Arg::Tensor(&bias),
        Arg::Maybe(dy.as_ref()),
        Arg::Tensor(&out),
        Arg::U32(rows),
        Arg::U32(width as u32),
        Arg::F32(eps as f32),
    ];
    let grid = (rows.div_ceil(THREADS / WARP), 1, 1);
    launch::run("layer_norm", &x, grid, THREADS, &arguments)?;
    Ok(out)
}

/// A pointwise function, or its gradient if `dy` is given.
///
/// - `function`: 0 for SiLU, 1 for GELU, 2 for OpenAI CLIP's approximation of it
pub(super) fn activation(function: u32, x: &Tensor, dy: Option<&Tensor>) -> Result<Tensor> {
    let x = x.contiguous()?;
    let dy = dy.map(|dy| dy.to_dtype(x.dtype())?.contiguous()).transpose()?;
    let out = launch::empty(x.dims(), x.dtype(), &x)?;
    let arguments = [
        Arg::Tensor(&x),
        Arg::Maybe(dy.as_ref()),
        Arg::Tensor(&out),
        Arg::U32(function),
        Arg::U32(as_u32(x.elem_count(), "numbers")?),
    ];
    launch::run("activation", &x, (blocks(x.elem_count()), 1, 1), THREADS, &arguments)?;
    Ok(out)
}

/// `a · gelu(gate)` of the halves of the last dimension, or the gradient of both if `dy` is given.
pub(super) fn geglu(x: &Tensor, dy: Option<&Tensor>) -> Result<Tensor> {
    let x = x.contiguous()?;
    let dy = dy.map(|dy| dy.to_dtype(x.dtype())?.contiguous()).transpose()?;
    let width = x.dim(candle_core::D::Minus1)? / 2;
    let mut shape = x.dims().to_vec();
    if let (None, Some(last)) = (&dy, shape.last_mut()) {
        *last = width;
    }
    let out = launch::empty(&shape, x.dtype(), &x)?;
    let is_packed = width.is_multiple_of(pack(&x));
    let per = if is_packed { pack(&x) } else { 1 };
    let count = x.elem_count() / 2 / per;
    let arguments = [
        Arg::Tensor(&x),
        Arg::Maybe(dy.as_ref()),
        Arg::Tensor(&out),
        Arg::U32((width / per) as u32),
        Arg::U32(u32::from(is_packed)),
        Arg::U32(as_u32(count, "numbers")?),
    ];
    launch::run("geglu", &x, (blocks(count), 1, 1), THREADS, &arguments)?;
    Ok(out)
}
