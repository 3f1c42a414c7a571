//! The same mathematics through candle's tensors, for every device and type but f32 on the CPU.
//!
//! Gradients are written out: candle's own backward pass would compute those of frozen weights too. Normalisation,
//! softmax and their gradients are taken in f32 where the type is shorter.

use candle_core::{D, DType, Result, Tensor};

use super::activation::Function;
use super::conv::{Geometry, Padding};
use crate::engine::autograd::Variable;

/// Queries of one block, whose logits over all keys are held at once.
pub(super) const QUERIES: usize = 512;

/// Numbers that an operation holds in a wide type at once, times the few steps that it takes: a batch goes through in
/// groups of rows.
pub(super) const HELD: usize = 1 << 24;

/// The type that sums over many numbers are taken in.
fn wide(x: &Tensor) -> DType {
    match x.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// - `x`: `(batch, height, width, in_channels)`
/// - `matrix`: `(kernel² · in_channels, out_channels)`
pub(super) fn convolve(
    x: &Tensor,
    matrix: &Tensor,
    bias: Option<&Tensor>,
    geometry: Geometry,
    add: Option<&Tensor>,
) -> Result<Tensor> {
    let y = gather_and_multiply(x, matrix, geometry, Positions::InOrder)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    match add {
        Some(other) => y + other,
        None => Ok(y),
    }
}

/// In which order the positions of a kernel lie in a matrix of filters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Positions {
    InOrder,
    Reversed,
}

/// Pixels are held once for each position of the kernel, of a group of images at a time.
fn gather_and_multiply(
    x: &Tensor,
    matrix: &Tensor,
    geometry: Geometry,
    positions: Positions,
) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    let (rows, columns) = geometry.output(height, width);
    in_groups(&[x], rows * columns * matrix.dim(0)?, |part| {
        let images = part[0].dim(0)?;
        let gathered = gather(&part[0], geometry, (rows, columns), positions)?;
        gathered.matmul(matrix)?.reshape((images, rows, columns, ()))
    })
}

/// `(images, height, width, channels)` → `(images · rows · columns, kernel² · channels)`.
fn gather(
    x: &Tensor,
    geometry: Geometry,
    (rows, columns): (usize, usize),
    positions: Positions,
) -> Result<Tensor> {
    let Geometry { kernel, stride, padding: p } = geometry;
    let (images, _, _, channels) = x.dims4()?;
    if kernel == 1 && stride == 1 && p == Padding::same(0) {
        return x.reshape(((), channels));
    }
    // Enough below and to the right that each position can be cut out in whole strides.
    let x = x.pad_with_zeros(1, p.top, p.bottom + stride)?.pad_with_zeros(
        2,
        p.left,
        p.right + stride,
    )?;
    let part = |y: usize, x_: usize| -> Result<Tensor> {
        let part = x.narrow(1, y, rows * stride)?.narrow(2, x_, columns * stride)?;
        let part = match stride {
            1 => part,
            _ => part
                .contiguous()?
                .reshape((images * rows, stride, columns, stride, channels))?
                .narrow(1, 0, 1)?
                .narrow(3, 0, 1)?,
        };
        part.contiguous()?.reshape((images * rows * columns, channels))
    };
    let all = (0..kernel * kernel).map(|position| part(position / kernel, position % kernel));
    let mut parts = all.collect::<Result<Vec<_>>>()?;
    if positions == Positions::Reversed {
        parts.reverse();
    }
    Tensor::cat(&parts, 1)?.contiguous()
}

/// The gradient of an image of `(height, width)`: a convolution of the gradient, with zeros between its pixels where
/// there was a stride, and filters turned by 180°.
///
/// Turned, the filters' positions lie in reverse order, which costs nothing: it is the pixels that are gathered so. In
/// and out channels change places in a copy that lives as long as the call; to keep it would take as much again as all
/// filters.
pub(super) fn convolve_back(
    dy: &Tensor,
    matrix: &Tensor,
    geometry: Geometry,
    (height, width): (usize, usize),
) -> Result<Tensor> {
    let Geometry { kernel, stride, padding: p } = geometry;
    let (_, rows, columns, out_channels) = dy.dims4()?;
    let in_channels = matrix.dim(0)? / (kernel * kernel);
    let apart = spread(&spread(dy, 1, stride)?, 2, stride)?;
    let (down, across) = ((rows - 1) * stride + 1, (columns - 1) * stride + 1);
    let (top, left) = (kernel - 1 - p.top, kernel - 1 - p.left);
    let padding = Padding {
        top,
        bottom: (height + kernel - 1).saturating_sub(top + down),
        left,
        right: (width + kernel - 1).saturating_sub(left + across),
    };
    // (kernel² · in, out) → (kernel² · out, in), still position by position.
    let by_position = matrix.reshape((kernel * kernel, in_channels, out_channels))?;
    let turned = by_position.transpose(1, 2)?.contiguous()?.reshape(((), in_channels))?;
    let geometry = Geometry { kernel, stride: 1, padding };
    let dx = gather_and_multiply(&apart, &turned, geometry, Positions::Reversed)?;
    dx.narrow(1, 0, height)?.narrow(2, 0, width)?.contiguous()
}

/// Puts `stride − 1` zeros between neighbours along `dim`.
fn spread(x: &Tensor, dim: usize, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(x.clone());
    }
    let count = x.dim(dim)?;
    let mut shape = x.dims().to_vec();
    shape[dim] = count * stride;
    let apart = x.unsqueeze(dim + 1)?.pad_with_zeros(dim + 1, 0, stride - 1)?.reshape(shape)?;
    apart.narrow(dim, 0, (count - 1) * stride + 1)?.contiguous()
}

/// As [`super::GroupNorm`]; `x`: `(batch, height, width, channels)`. The way back keeps nothing but `x`.
pub(super) fn group_norm(
    x: &Variable,
    shift: Option<&Tensor>,
    (weight, bias): (&Tensor, &Tensor),
    (groups, eps): (usize, f64),
    silu: bool,
) -> Result<Variable> {
    let input = x.tensor().clone();
    let (batch, height, width, channels) = input.dims4()?;
    let (narrow, wide) = (input.dtype(), wide(&input));
    let scale = |x: &Tensor| x.to_dtype(wide)?.reshape((1, 1, groups, channels / groups));
    let (weight, bias) = (scale(weight)?, scale(bias)?);
    let shift = match shift {
        Some(shift) => shift.to_dtype(wide)?.reshape((batch, 1, groups, channels / groups))?,
        None => Tensor::zeros((batch, 1, groups, channels / groups), wide, input.device())?,
    };
    let size = height * width * channels;
    let normed = move |x: &Tensor, shift: &Tensor| -> Result<(Tensor, Tensor)> {
        let shape = (x.dim(0)?, height * width, groups, channels / groups);
        normalize(&x.to_dtype(wide)?.reshape(shape)?.broadcast_add(shift)?, &[1, 3], eps)
    };
    let y = in_groups(&[&input, &shift], size, |part| {
        let (normed, _) = normed(&part[0], &part[1])?;
        let z = normed.broadcast_mul(&weight)?.broadcast_add(&bias)?;
        let y = if silu { (&z * sigmoid(&z)?)? } else { z };
        y.reshape(part[0].shape())?.to_dtype(narrow)
    })?;
    Ok(Variable::derived(y, [x], move |dy, _| {
        let dx = in_groups(&[&input, &shift, dy], size, |part| {
            let (normed, rstd) = normed(&part[0], &part[1])?;
            let mut g = part[2].to_dtype(wide)?.reshape(normed.shape())?;
            if silu {
                let z = normed.broadcast_mul(&weight)?.broadcast_add(&bias)?;
                g = (g * Function::Silu.slope(&z)?)?;
            }
            let dx = normalize_back(&g.broadcast_mul(&weight)?, &normed, &rstd, &[1, 3])?;
            dx.reshape(part[0].shape())?.to_dtype(narrow)
        })?;
        Ok([Some(dx)])
    }))
}

/// As [`super::LayerNorm`], over the last dimension. The way back keeps nothing but `x`.
pub(super) fn layer_norm(
    x: &Variable,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
) -> Result<Variable> {
    let input = x.tensor().clone();
    let (narrow, wide) = (input.dtype(), wide(&input));
    let (weight, bias) = (weight.to_dtype(wide)?, bias.to_dtype(wide)?);
    let y = in_rows(&[&input], |part| {
        let (normed, _) = normalize(&part[0].to_dtype(wide)?, &[1], eps)?;
        normed.broadcast_mul(&weight)?.broadcast_add(&bias)?.to_dtype(narrow)
    })?;
    Ok(Variable::derived(y, [x], move |dy, _| {
        let dx = in_rows(&[&input, dy], |part| {
            let (normed, rstd) = normalize(&part[0].to_dtype(wide)?, &[1], eps)?;
            let g = part[1].to_dtype(wide)?.broadcast_mul(&weight)?;
            normalize_back(&g, &normed, &rstd, &[1])?.to_dtype(narrow)
        })?;
        Ok([Some(dx)])
    }))
}

/// Applies `f` to groups of rows, of which each is `size` numbers, so that it never holds more than [`HELD`] of them
/// in a wide type; what it returns is put together again.
fn in_groups(
    inputs: &[&Tensor],
    size: usize,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Tensor> {
    let rows = inputs[0].dim(0)?;
    let group = (HELD / size.max(1)).max(1);
    let part = |first: usize| -> Result<Tensor> {
        let count = group.min(rows - first);
        let cut = |x: &&Tensor| x.narrow(0, first, count)?.contiguous();
        f(&inputs.iter().map(cut).collect::<Result<Vec<_>>>()?)
    };
    let first = part(0)?;
    if group >= rows {
        return Ok(first);
    }
    let mut shape = first.dims().to_vec();
    shape[0] = rows;
    let all = Tensor::zeros(shape, first.dtype(), first.device())?;
    all.slice_set(&first, 0, 0)?;
    drop(first);
    for first in (group..rows).step_by(group) {
        all.slice_set(&part(first)?, 0, first)?;
    }
    Ok(all)
}

/// [`in_groups`] of operations on each row of the last dimension: `f` takes and returns `(rows, …)`.
fn in_rows(inputs: &[&Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Tensor> {
    let width = inputs[0].dim(D::Minus1)?;
    let flat = |x: &&Tensor| x.reshape(((), x.dim(D::Minus1)?));
    let flat = inputs.iter().map(flat).collect::<Result<Vec<_>>>()?;
    let y = in_groups(&flat.iter().collect::<Vec<_>>(), width, f)?;
    let mut shape = inputs[0].dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = y.dim(1)?;
    }
    y.reshape(shape)
}

/// `x̂` and `1 / √(var + ε)` over some dimensions.
fn normalize(x: &Tensor, dims: &[usize], eps: f64) -> Result<(Tensor, Tensor)> {
    let centred = x.broadcast_sub(&x.mean_keepdim(dims)?)?;
    let rstd = (centred.sqr()?.mean_keepdim(dims)? + eps)?.sqrt()?.recip()?;
    Ok((centred.broadcast_mul(&rstd)?, rstd))
}

/// `(g − mean g − x̂ mean(g x̂)) / √(var + ε)`.
fn normalize_back(g: &Tensor, normed: &Tensor, rstd: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let mean_gx = (g * normed)?.mean_keepdim(dims)?;
    g.broadcast_sub(&g.mean_keepdim(dims)?)?
        .sub(&normed.broadcast_mul(&mean_gx)?)?
        .broadcast_mul(rstd)
}

/// `1 / (1 + e^(−x))`.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// `Φ(x)` and `φ(x)`.
fn normal(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let cdf = (((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
    let factor = 0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2; // 1 / √(2π)
    let pdf = ((x.sqr()? * -0.5)?.exp()? * factor)?;
    Ok((cdf, pdf))
}

impl Function {
    fn value(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu => x * sigmoid(x)?,
            Self::Gelu => x * normal(x)?.0,
            Self::QuickGelu => x * sigmoid(&(x * 1.702)?)?,
        }
    }

    fn slope(self, x: &Tensor) -> Result<Tensor> {
        // For x σ(k x): σ (1 + k x (1 − σ))
        let logistic = |k: f64| -> Result<Tensor> {
            let s = sigmoid(&(x * k)?)?;
            let rest = (((x * k)? * s.affine(-1.0, 1.0)?)? + 1.0)?;
            s * rest
        };
        match self {
            Self::Silu => logistic(1.0),
            Self::QuickGelu => logistic(1.702),
            Self::Gelu => {
                let (cdf, pdf) = normal(x)?;
                cdf + (x * pdf)?
            }
        }
    }
}

/// A function of one number, of each.
pub(super) fn activation(x: &Variable, function: Function) -> Result<Variable> {
    let input = x.tensor().clone();
    let (narrow, wide) = (input.dtype(), wide(&input));
    let y = in_rows(&[&input], |part| function.value(&part[0].to_dtype(wide)?)?.to_dtype(narrow))?;
    Ok(Variable::derived(y, [x], move |dy, _| {
        let dx = in_rows(&[&input, dy], |part| {
            let slope = function.slope(&part[0].to_dtype(wide)?)?;
            (part[1].to_dtype(wide)? * slope)?.to_dtype(narrow)
        })?;
        Ok([Some(dx)])
    }))
}

/// `a · gelu(gate)` of the halves of the last dimension.
pub(super) fn geglu(x: &Variable) -> Result<Variable> {
    let input = x.tensor().clone();
    let (narrow, wide) = (input.dtype(), wide(&input));
    let half = input.dim(D::Minus1)? / 2;
    let cut = move |x: &Tensor, start: usize| {
        x.narrow(D::Minus1, start, half)?.contiguous()?.to_dtype(wide)
    };
    let y = in_rows(&[&input], |part| {
        let gate = Function::Gelu.value(&cut(&part[0], half)?)?;
        (cut(&part[0], 0)? * gate)?.to_dtype(narrow)
    })?;
    Ok(Variable::derived(y, [x], move |dy, _| {
        let dx = in_rows(&[&input, dy], |part| {
            let (gate, dy) = (cut(&part[0], half)?, part[1].to_dtype(wide)?);
            let da = (&dy * Function::Gelu.value(&gate)?)?.to_dtype(narrow)?;
            let d_gate = ((dy * cut(&part[0], 0)?)? * Function::Gelu.slope(&gate)?)?;
            Tensor::cat(&[da, d_gate.to_dtype(narrow)?], D::Minus1)
        })?;
        Ok([Some(dx)])
    }))
}

/// As [`super::attention()`]; logits of all keys exist for a block of queries of some rows at a time.
pub(super) fn attention(
    query: &Variable,
    key: &Variable,
    value: &Variable,
    heads: usize,
    scale: f64,
    bias: Option<&Tensor>,
) -> Result<Variable> {
    let attend = Attend { heads, scale, bias: bias.cloned() };
    let [q, k, v] = [query, key, value].map(|x| x.tensor().clone());
    let size = attend.logits(&q, &k)?;
    let out = in_groups(&[&q, &k, &v], size, |part| attend.forward(&part[0], &part[1], &part[2]))?;
    Ok(Variable::derived(out, [query, key, value], move |gradient, _| {
        let rows = q.dim(0)?;
        let group = (HELD / size).max(1);
        let mut gradients = [&q, &k, &v].map(|_| Vec::new());
        for first in (0..rows).step_by(group) {
            let part = |x: &Tensor| x.narrow(0, first, group.min(rows - first))?.contiguous();
            let [q, k, v, gradient] = [&q, &k, &v, gradient].map(part);
            let of_part = attend.backward(&q?, &k?, &v?, &gradient?)?;
            gradients.iter_mut().zip(of_part).for_each(|(all, part)| all.push(part));
        }
        let [d_q, d_k, d_v] = gradients.map(|parts| joined(parts, 0));
        Ok([Some(d_q?), Some(d_k?), Some(d_v?)])
    }))
}

/// Parts one after the other; a single one needs no copy.
fn joined(mut parts: Vec<Tensor>, dim: usize) -> Result<Tensor> {
    match parts.pop() {
        Some(only) if parts.is_empty() => Ok(only),
        Some(last) => {
            parts.push(last);
            Tensor::cat(&parts, dim)
        }
        None => candle_core::bail!("no rows"),
    }
}

struct Attend {
    heads: usize,
    scale: f64,
    /// `(queries, keys)`.
    bias: Option<Tensor>,
}

impl Attend {
    /// How many logits of a row exist at once.
    fn logits(&self, query: &Tensor, key: &Tensor) -> Result<usize> {
        Ok(self.heads * query.dim(1)?.min(QUERIES) * key.dim(1)?)
    }

    /// `(batch, tokens, inner)` → `(batch, heads, tokens, head_dim)`.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, inner) = x.dims3()?;
        x.reshape((batch, tokens, self.heads, inner / self.heads))?.transpose(1, 2)?.contiguous()
    }

    /// The way back of [`Self::split`].
    fn join(x: &Tensor) -> Result<Tensor> {
        x.transpose(1, 2)?.contiguous()?.flatten_from(2)
    }

    /// `P` of queries `first..`, `(batch, heads, queries, keys)` in a wide type.
    fn weights(&self, q: &Tensor, k: &Tensor, first: usize) -> Result<Tensor> {
        let logits = q.matmul(&k.transpose(2, 3)?)?.to_dtype(wide(q))?;
        let logits = (logits * self.scale)?;
        let logits = match &self.bias {
            Some(bias) => {
                let bias = bias.narrow(0, first, q.dim(2)?)?.to_dtype(logits.dtype())?;
                logits.broadcast_add(&bias.clamp(f32::MIN, f32::MAX)?)?
            }
            None => logits,
        };
        let below = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
        drop(logits);
        let weights = below.exp()?;
        drop(below);
        weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
    }

    fn forward(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let (k, v) = (self.split(key)?, self.split(value)?);
        let mut blocks = Vec::new();
        for (first, count) in blocks_of(query.dim(1)?) {
            let q = self.split(&query.narrow(1, first, count)?)?;
            let weights = self.weights(&q, &k, first)?.to_dtype(v.dtype())?;
            blocks.push(Self::join(&weights.matmul(&v)?)?);
        }
        joined(blocks, 1)
    }

    fn backward(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let (k, v) = (self.split(key)?, self.split(value)?);
        let (narrow, wide) = (query.dtype(), wide(query));
        let (mut d_q, mut d_k, mut d_v) =
            (Vec::new(), k.zeros_like()?.to_dtype(wide)?, v.zeros_like()?.to_dtype(wide)?);
        for (first, count) in blocks_of(query.dim(1)?) {
            let part = |x: &Tensor| self.split(&x.narrow(1, first, count)?);
            let (q, d_o) = (part(query)?, part(gradient)?);
            let p = self.weights(&q, &k, first)?;
            let turned = |x: &Tensor, by: &Tensor| -> Result<Tensor> {
                x.to_dtype(narrow)?.transpose(2, 3)?.matmul(by)?.to_dtype(wide)
            };
            d_v = (d_v + turned(&p, &d_o)?)?;
            let mut d_p = d_o.matmul(&v.transpose(2, 3)?)?.to_dtype(wide)?;
            let d = (&p * &d_p)?.sum_keepdim(D::Minus1)?;
            d_p = d_p.broadcast_sub(&d)?; // and the one before it is freed
            let d_s = ((p * d_p)? * self.scale)?;
            d_k = (d_k + turned(&d_s, &q)?)?;
            d_q.push(Self::join(&d_s.to_dtype(narrow)?.matmul(&k)?)?);
        }
        let join = |x: Tensor| Self::join(&x.to_dtype(narrow)?);
        Ok([joined(d_q, 1)?, join(d_k)?, join(d_v)?])
    }
}

fn blocks_of(queries: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..queries).step_by(QUERIES).map(move |first| (first, QUERIES.min(queries - first)))
}

/// As [`super::upsample_nearest_2x`].
pub(super) fn upsample_nearest_2x(x: &Variable, height: usize, width: usize) -> Result<Variable> {
    let (b, h, w, c) = x.tensor().dims4()?;
    let doubled = x.tensor().reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, 2, w, 2, c))?;
    let doubled = doubled.contiguous()?.reshape((b, 2 * h, 2 * w, c))?;
    let y = doubled.narrow(1, 0, height)?.narrow(2, 0, width)?.contiguous()?;
    Ok(Variable::derived(y, [x], move |dy, _| {
        let dy = dy.pad_with_zeros(1, 0, 2 * h - height)?.pad_with_zeros(2, 0, 2 * w - width)?;
        let dx = dy.contiguous()?.reshape((b, h, 2, w, 2, c))?.sum(4)?.sum(2)?;
        Ok([Some(dx)])
    }))
}
