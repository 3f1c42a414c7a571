//! GEGLU: a projection whose one half is gated by the other.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::activation::normal;
use super::cpu::{Shared, applies, filled, tensor, values, vectorized};
use super::elsewhere;
use super::linear::{FrozenLinear, replace_last};
use super::product::{
    Add, Left, Right, TILE, keeps_turned, multiply_into, multiply_rows, multiply_shared,
};
use crate::engine::autograd::Variable;

/// Rows and columns of both halves that are computed at once, and gated while they are in the second-level cache.
const ROWS: usize = 192;
const COLUMNS: usize = 2 * TILE;

/// `a · gelu(gate)` with `(a | gate) = x Wᵀ + b`, whose `W` and `b` take no gradient; diffusers' `GEGLU`.
///
/// The projection itself, eight times as wide as a transformer's hidden states, is never in memory. With a gradient to
/// come, `gelu(gate)` and `a · gelu'(gate)` are kept, which it is multiplied by.
pub struct Geglu(Halves);

enum Halves {
    Cpu {
        a: FrozenLinear,
        gate: FrozenLinear,
    },
    /// Of the whole projection.
    Elsewhere(FrozenLinear),
}

impl Geglu {
    /// - `weight`: `(2 · out_features, in_features)`
    /// - `bias`: `(2 · out_features,)`
    pub fn new(weight: Tensor, bias: Tensor) -> Result<Self> {
        let (features, _) = weight.dims2()?;
        if !features.is_multiple_of(2) {
            bail!("{features} features do not split in halves");
        }
        if !applies(&weight) {
            return Ok(Self(Halves::Elsewhere(FrozenLinear::new(weight, Some(bias))?)));
        }
        let half = |start: usize| {
            let bias = bias.narrow(0, start, features / 2)?;
            FrozenLinear::new(weight.narrow(0, start, features / 2)?, Some(bias))
        };
        Ok(Self(Halves::Cpu { a: half(0)?, gate: half(features / 2)? }))
    }

    /// `(…, in_features)` → `(…, out_features)`.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        let (a, gate) = match &self.0 {
            Halves::Cpu { a, gate } => (a, gate),
            Halves::Elsewhere(projection) => return elsewhere::geglu(&projection.forward(x)?),
        };
        let (in_features, width) = a.features();
        let shape = replace_last(x.tensor(), in_features, width)?;
        let input = x.tensor().contiguous()?;
        let input = values(&input)?;
        let rows = input.len() / in_features;
        let mut factors = Vec::new();
        let y = filled(rows * width, |y| {
            let y = Shared::new(y);
            if x.is_tracked() {
                factors = filled(2 * rows * width, |factors| {
                    gated(&input, rows, (a, gate), y, Some(Shared::new(factors)));
                });
            } else {
                gated(&input, rows, (a, gate), y, None);
            }
        });
        let (a, gate) = (a.clone(), gate.clone());
        Ok(Variable::derived(tensor(y, shape)?, [x], move |dy, _| {
            Ok([Some(pull_back(&factors, dy, &a, &gate)?)])
        }))
    }
}

/// `y`, `(rows, width)`, and for each row of it the `width` factors of either half's gradient.
fn gated(
    x: &[f32],
    rows: usize,
    (a, gate): (&FrozenLinear, &FrozenLinear),
    y: Shared,
    factors: Option<Shared>,
) {
    let (in_features, width) = a.features();
    let rows_of_task = rows.div_ceil(rows.div_ceil(ROWS).max(1)).next_multiple_of(8);
    let row_tasks = rows.div_ceil(rows_of_task);
    let wanted = (4 * rayon::current_num_threads()).div_ceil(row_tasks.max(1));
    let columns_of_task = width.div_ceil(wanted).next_multiple_of(COLUMNS);
    let column_tasks = width.div_ceil(columns_of_task);
    (0..row_tasks * column_tasks).into_par_iter().for_each(|task| {
        let first = task / column_tasks * rows_of_task;
        let count = rows_of_task.min(rows - first);
        let left = Left::rows(&x[first * in_features..(first + count) * in_features], in_features);
        let start = task % column_tasks * columns_of_task;
        let mut halves = [(); 2].map(|()| filled(count * COLUMNS, |_| {}));
        for column in (start..width.min(start + columns_of_task)).step_by(COLUMNS) {
            let columns = column..width.min(column + COLUMNS);
            for (half, linear) in halves.iter_mut().zip([a, gate]) {
                let Some((panels, bias)) = linear.on_cpu() else { continue };
                let add = Add { per_column: bias, ..Add::default() };
                let place = half.as_mut_ptr().wrapping_sub(column);
                // SAFETY: the columns of each row lie inside `half`, which is this task's own.
                unsafe {
                    let right = Right::Panels(panels.view());
                    multiply_into(left, right, add, columns.clone(), place, COLUMNS);
                }
            }
            let [a, gate] = &halves;
            for row in 0..count {
                let at = (first + row) * width + column;
                // SAFETY: tasks have different rows or columns, all inside `y` and `factors`.
                let part = |place: *mut f32| unsafe {
                    std::slice::from_raw_parts_mut(place, columns.len())
                };
                let half = row * COLUMNS..row * COLUMNS + columns.len();
                let (a, gate, y) = (&a[half.clone()], &gate[half], part(y.at(at)));
                match factors {
                    None => gate_row(a, gate, y),
                    Some(factors) => {
                        let at = at + (first + row) * width;
                        let (of_a, of_gate) = (part(factors.at(at)), part(factors.at(at + width)));
                        gate_row_and_factors(a, gate, y, of_a, of_gate);
                    }
                }
            }
        }
    });
}

/// Rows whose gradients of both halves are held at once on the way back.
pub(super) fn rows_held(rows: usize, in_features: usize, width: usize) -> usize {
    match keeps_turned(in_features, width) {
        true => rows.min(ROWS * rayon::current_num_threads()),
        false => rows,
    }
}

/// The gradient of `x` from that of `y`.
fn pull_back(
    factors: &[f32],
    dy: &Tensor,
    a: &FrozenLinear,
    gate: &FrozenLinear,
) -> Result<Tensor> {
    let (in_features, width) = a.features();
    let shape = replace_last(dy, width, in_features)?;
    let dy = dy.contiguous()?;
    let dy = values(&dy)?;
    let (Some((a, _)), Some((gate, _))) = (a.on_cpu(), gate.on_cpu()) else {
        bail!("a projection on the CPU is not there any more")
    };
    let (a, gate) = (a.turned(), gate.turned());
    let rows = dy.len() / width;
    // What is turned on the way is turned once for all rows; else the gradients of the halves stay in the cache.
    let rows_of_task = if keeps_turned(in_features, width) { ROWS } else { rows.max(1) };
    let dx = filled(rows * in_features, |dx| {
        let tasks = dx
            .par_chunks_mut(rows_of_task * in_features)
            .zip(dy.par_chunks(rows_of_task * width))
            .zip(factors.par_chunks(2 * rows_of_task * width));
        tasks.for_each(|((dx, dy), factors)| {
            let mut d_gate = Vec::new();
            let d_a = filled(dy.len(), |d_a| {
                d_gate = filled(dy.len(), |d_gate| {
                    d_a.par_chunks_mut(ROWS * width)
                        .zip(d_gate.par_chunks_mut(ROWS * width))
                        .zip(dy.par_chunks(ROWS * width))
                        .zip(factors.par_chunks(2 * ROWS * width))
                        .for_each(|(((d_a, d_gate), dy), factors)| {
                            scale_rows(factors, dy, d_a, d_gate, width);
                        });
                });
            });
            multiply_rows(&d_a, a, Add::default(), dx);
            let add = Add { present: true, ..Add::default() };
            multiply_shared(Left::rows(&d_gate, width), gate, add, dx);
        });
    });
    tensor(dx, shape)
}

vectorized! {
    fn gate_row(a: &[f32], gate: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(a).zip(gate).for_each(|((y, &a), &gate)| *y = a * (gate * normal(gate).0));
    }
}

vectorized! {
    fn gate_row_and_factors(a: &[f32], gate: &[f32], y: &mut [f32], of_a: &mut [f32], of_gate: &mut [f32]) {
        for ((((y, of_a), of_gate), &a), &gate) in y.iter_mut().zip(of_a).zip(of_gate).zip(a).zip(gate) {
            let (cdf, pdf) = normal(gate);
            *of_a = gate * cdf;
            *of_gate = a * (cdf + gate * pdf);
            *y = a * (gate * cdf);
        }
    }
}

vectorized! {
    fn scale_rows(factors: &[f32], dy: &[f32], d_a: &mut [f32], d_gate: &mut [f32], width: usize) {
        let rows = d_a.chunks_exact_mut(width).zip(d_gate.chunks_exact_mut(width)).zip(dy.chunks_exact(width));
        for (((d_a, d_gate), dy), factors) in rows.zip(factors.chunks_exact(2 * width)) {
            let (of_a, of_gate) = factors.split_at(width);
            d_a.iter_mut().zip(of_a).zip(dy).for_each(|((d_a, factor), dy)| *d_a = factor * dy);
            d_gate.iter_mut().zip(of_gate).zip(dy).for_each(|((d_gate, factor), dy)| *d_gate = factor * dy);
        }
    }
}
