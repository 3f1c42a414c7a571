//! Each kernel of `cuda` against the same operation in candle's tensors, on the device itself.

use candle_core::{DType, Device, Result, Tensor};

use super::activation::silu;
use super::attention::attention;
use super::conv::{FrozenConv2d, Padding};
use super::cuda::{Family, Setting, has_kernels, in_tensors, setting, turn_off};
use super::geglu::Geglu;
use super::group_norm::GroupNorm;
use super::layer_norm::LayerNorm;
use super::linear::FrozenLinear;
use super::precision::Precision;
use crate::engine::autograd::{Tape, Variable};

type Operation = Box<dyn Fn(&[Variable]) -> Result<Variable>>;

/// Runs all kernels in `dtype` on a GPU, and turns off those that do not agree with candle's tensors. Returns a line for each of
/// these. There is nothing to test on the CPU.
pub(crate) fn self_test(device: &Device, dtype: DType) -> Vec<String> {
    if device.is_cpu() || setting() != Setting::Tested {
        return Vec::new();
    }
    let probe = match Tensor::from_vec(vec![0.0f32], 1, device).and_then(|x| x.to_dtype(dtype)) {
        Ok(probe) => probe,
        Err(error) => return vec![format!("the device does not work: {error}")],
    };
    let families = [
        Family::Cudnn,
        Family::Convolution,
        Family::CublasLt,
        Family::Sums,
        Family::Norms,
        Family::Pointwise,
        Family::Attention,
    ];
    let mut wrong = Vec::new();
    for family in families {
        if !has_kernels(&probe, family) {
            continue;
        }
        let failure = match apart(family, device, dtype) {
            Ok(apart) if apart <= tolerance(dtype) => continue,
            Ok(apart) => format!("results differ by {apart:.1e} of the largest number"),
            Err(error) => error.to_string(),
        };
        turn_off(family);
        wrong.push(format!("{family:?}: {failure}"));
    }
    wrong
}

/// What rounding may differ by, where both ways are right.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 4e-2,
        DType::F16 => 5e-3,
        _ => 1e-5,
    }
}

/// The largest difference of values and gradients, of the largest number of each.
fn apart(family: Family, device: &Device, dtype: DType) -> Result<f64> {
    let mut worst = 0.0f64;
    for (shapes, operation) in operations(family, device, dtype)? {
        let inputs = shapes
            .iter()
            .enumerate()
            .map(|(seed, shape)| numbers(seed, shape, device, dtype))
            .collect::<Result<Vec<_>>>()?;
        let by_kernels = results(&inputs, &operation)?;
        let by_tensors = in_tensors(|| results(&inputs, &operation))?;
        for (ours, theirs) in by_kernels.iter().zip(&by_tensors) {
            let largest = |x: &Tensor| -> Result<f64> {
                let x = x.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?;
                let values: Vec<f32> = x.to_vec1()?;
                // NaN must not get lost.
                let size = |most: f64, x: f32| {
                    if x.is_finite() { most.max(x.abs().into()) } else { f64::INFINITY }
                };
                Ok(values.into_iter().fold(0.0, size))
            };
            let difference = (ours.to_dtype(DType::F32)? - theirs.to_dtype(DType::F32)?)?;
            worst = worst.max(largest(&difference)? / largest(theirs)?.max(1e-6));
        }
    }
    Ok(worst)
}

/// The value, and the gradients of its sum with other numbers.
fn results(inputs: &[Tensor], operation: &Operation) -> Result<Vec<Tensor>> {
    let tape = Tape::default();
    let leaves: Vec<Variable> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
    let value = operation(&leaves)?;
    let pull = numbers(9, value.tensor().dims(), value.tensor().device(), value.tensor().dtype())?;
    let mut gradients = tape.backward(&value, pull)?;
    let mut all: Vec<Tensor> = leaves.iter().filter_map(|x| gradients.take(x)).collect();
    all.push(value.into_tensor());
    Ok(all)
}

fn operations(
    family: Family,
    device: &Device,
    dtype: DType,
) -> Result<Vec<(Vec<Vec<usize>>, Operation)>> {
    let weight = |seed: usize, shape: &[usize]| numbers(100 + seed, shape, device, dtype);
    let mut all: Vec<(Vec<Vec<usize>>, Operation)> = Vec::new();
    match family {
        // Where the padding differs from side to side, or channels do not fill a pack, pixels are gathered.
        Family::Cudnn | Family::Convolution => {
            let below = Padding { top: 0, left: 0, bottom: 2, right: 2 };
            let convolutions: &[_] = match family {
                Family::Cudnn => &[(16, 1, Padding::same(1)), (16, 2, Padding::same(1))],
                _ => &[(16, 1, below), (3, 1, Padding::same(1)), (16, 2, below)],
            };
            for &(channels, stride, padding) in convolutions {
                let filters = weight(1, &[24, channels, 3, 3])?;
                let conv = FrozenConv2d::new(filters, None, stride, padding, Precision::Exact)?;
                all.push((vec![vec![2, 7, 6, channels]], Box::new(move |x| conv.forward(&x[0]))));
            }
        }
        // Where the depth does not fill packs, it is not cuBLASLt that adds.
        Family::CublasLt | Family::Sums => {
            let depth = if family == Family::CublasLt { 24 } else { 20 };
            for width in [40, 5] {
                let linear =
                    FrozenLinear::new(weight(1, &[width, depth])?, Some(weight(2, &[width])?))?;
                let (from, to) = (vec![2, 9, depth], vec![2, 9, width]);
                let alone = linear.clone();
                all.push((vec![from.clone()], Box::new(move |x| alone.forward(&x[0]))));
                all.push((vec![from, to], Box::new(move |x| linear.forward_add(&x[0], &x[1]))));
            }
        }
        Family::Norms => {
            let norm = GroupNorm::new(weight(1, &[40])?, weight(2, &[40])?, 4, 1e-5)?;
            let shift = weight(3, &[2, 40])?;
            let plain = norm.clone();
            let shape = || vec![vec![2, 9, 8, 40]];
            all.push((shape(), Box::new(move |x| plain.forward(&x[0]))));
            let call = move |x: &[Variable]| norm.forward_shifted_silu(&x[0], &shift);
            all.push((shape(), Box::new(call)));
            let norm = LayerNorm::new(weight(1, &[40])?, weight(2, &[40])?, 1e-5)?;
            all.push((shape(), Box::new(move |x| norm.forward(&x[0]))));
        }
        Family::Pointwise => {
            let geglu = Geglu::new(weight(1, &[48, 16])?, weight(2, &[48])?)?;
            all.push((vec![vec![3, 11, 16]], Box::new(move |x| geglu.forward(&x[0]))));
            all.push((vec![vec![3, 11, 17]], Box::new(|x| silu(&x[0]))));
        }
        Family::Attention => {
            for (queries, keys, heads, head_dim) in [
                (70, 70, 2, 16),
                (70, 77, 2, 40),
                (33, 80, 1, 64),
                (65, 77, 1, 80),
                (65, 70, 1, 160),
            ] {
                let inner = heads * head_dim;
                let shapes =
                    vec![vec![2, queries, inner], vec![2, keys, inner], vec![2, keys, inner]];
                let scale = 1.0 / (head_dim as f64).sqrt();
                let call = move |x: &[Variable]| {
                    attention(&x[0], &x[1], &x[2], heads, scale, None, Precision::Exact)
                };
                all.push((shapes, Box::new(call)));
            }
        }
    }
    Ok(all)
}

/// Numbers in [-1, 1] that depend on seed and place alone.
fn numbers(seed: usize, shape: &[usize], device: &Device, dtype: DType) -> Result<Tensor> {
    let mut state = 2 * seed as u64 + 1;
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
}
