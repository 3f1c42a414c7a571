//! GEGLU: a projection whose one half is gated by the other.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::activation::normal;
use super::cpu::{Shared, filled, tensor, values, vectorized};
use super::elsewhere;
use super::linear::{FrozenLinear, replace_last};
use super::product::{Add, FrozenMatrix, Left, TILE, multiply_into, multiply_rows, share_out};
use super::stored::{self, FrozenWeight};
use crate::engine::autograd::Variable;

/// Rows and columns of both halves that are computed at once, and gated while they are in the second-level cache.
const ROWS: usize = 192;
/// Rows of the projection, whose matrix is turned once for all of them.
const PROJECTED: usize = 256;
const COLUMNS: usize = 2 * TILE;

/// `a · gelu(gate)` with `(a | gate) = x Wᵀ + b`, whose `W` and `b` take no gradient; diffusers' `GEGLU`.
///
/// The projection itself, eight times as wide as a transformer's hidden states, is never in memory. With a gradient to
/// come, `gelu(gate)` and `a · gelu'(gate)` are kept, which it is multiplied by.
pub struct Geglu(Place);

/// The projection, where it is used.
enum Place {
    Cpu(Arc<Projection>),
    Elsewhere(FrozenLinear),
}

/// `a` and `gate` as matrices of their own.
struct Projection {
    in_features: usize,
    out_features: usize,
    halves: [Half; 2],
}

struct Half {
    /// `W`, `(out_features, in_features)`.
    matrix: FrozenMatrix,
    bias: Vec<f32>,
}

impl Geglu {
    /// - `weight`: `(2 · out_features, in_features)`
    /// - `bias`: `(2 · out_features,)`
    pub fn new(weight: impl Into<FrozenWeight>, bias: Tensor) -> Result<Self> {
        let weight = weight.into();
        let [features, in_features] = *weight.shape() else {
            bail!("a matrix of {:?}", weight.shape());
        };
        if !features.is_multiple_of(2) {
            bail!("{features} features do not split in halves");
        }
        let stored = match weight.place()? {
            stored::Place::Cpu(stored) => stored,
            stored::Place::Elsewhere(weight) => {
                return Ok(Self(Place::Elsewhere(FrozenLinear::new(weight, Some(bias))?)));
            }
        };
        let out_features = features / 2;
        let half = |index: usize| -> Result<Half> {
            let matrix = FrozenMatrix::new(stored.part(index, 2), out_features, in_features);
            Ok(Half {
                matrix,
                bias: bias.narrow(0, index * out_features, out_features)?.to_vec1()?,
            })
        };
        let halves = [half(0)?, half(1)?];
        Ok(Self(Place::Cpu(Arc::new(Projection { in_features, out_features, halves }))))
    }

    /// `(…, in_features)` → `(…, out_features)`.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        match &self.0 {
            Place::Elsewhere(projection) => elsewhere::geglu(&projection.forward(x)?),
            Place::Cpu(projection) => {
                let (y, factors) = projection.gated(x.tensor(), x.is_tracked())?;
                let projection = projection.clone();
                Ok(Variable::derived(y, [x], move |dy, _| {
                    Ok([Some(projection.pull_back(&factors, dy)?)])
                }))
            }
        }
    }
}

impl Projection {
    /// The result, and if asked for, for each of its rows the factors of `a`'s and then of `gate`'s gradient.
    fn gated(&self, x: &Tensor, with_factors: bool) -> Result<(Tensor, Vec<f32>)> {
        let width = self.out_features;
        let shape = replace_last(x, self.in_features, width)?;
        let x = x.contiguous()?;
        let x = values(&x)?;
        let rows = x.len() / self.in_features;
        let mut factors = Vec::new();
        let y = filled(rows * width, |y| {
            let y = Shared::new(y);
            if with_factors {
                factors = filled(2 * rows * width, |factors| {
                    self.gate_all(&x, rows, y, Some(Shared::new(factors)));
                });
            } else {
                self.gate_all(&x, rows, y, None);
            }
        });
        Ok((tensor(y, shape)?, factors))
    }

    fn gate_all(&self, x: &[f32], rows: usize, y: Shared, factors: Option<Shared>) {
        let width = self.out_features;
        share_out((rows, width), (PROJECTED, COLUMNS), |rows, columns| {
            let x = &x[rows.start * self.in_features..rows.end * self.in_features];
            let left = Left::rows(x, self.in_features);
            let mut products = [(); 2].map(|()| filled(rows.len() * COLUMNS, |_| {}));
            for column in columns.clone().step_by(COLUMNS) {
                let columns = column..columns.end.min(column + COLUMNS);
                for (product, half) in products.iter_mut().zip(&self.halves) {
                    let add = Add { per_column: Some(&half.bias), ..Add::default() };
                    let right = half.matrix.right();
                    let place = product.as_mut_ptr().wrapping_sub(column);
                    // SAFETY: these columns of each row lie inside `product`, which is this task's own.
                    unsafe { multiply_into(left, right, add, columns.clone(), place, COLUMNS) };
                }
                let [a, gate] = &products;
                for (index, row) in rows.clone().enumerate() {
                    // SAFETY: tasks have different rows or columns, all inside `y` and `factors`.
                    let part = |place: *mut f32| unsafe {
                        std::slice::from_raw_parts_mut(place, columns.len())
                    };
                    let own = index * COLUMNS..index * COLUMNS + columns.len();
                    let y = part(y.at(row * width + column));
                    let (a, gate) = (&a[own.clone()], &gate[own]);
                    match factors {
                        None => gate_row(a, gate, y),
                        Some(factors) => {
                            let of_a = part(factors.at(2 * row * width + column));
                            let of_gate = part(factors.at((2 * row + 1) * width + column));
                            gate_row_and_factors(a, gate, y, of_a, of_gate);
                        }
                    }
                }
            }
        });
    }

    /// The gradient of `x` from that of the result.
    fn pull_back(&self, factors: &[f32], dy: &Tensor) -> Result<Tensor> {
        let Self { in_features, out_features: width, .. } = *self;
        let shape = replace_last(dy, width, in_features)?;
        let dy = dy.contiguous()?;
        let dy = values(&dy)?;
        let [a, gate] = [0, 1].map(|half| self.halves[half].matrix.turned());
        let rows = dy.len() / width;
        let dx = filled(rows * in_features, |dx| {
            let tasks = dx
                .par_chunks_mut(ROWS * in_features)
                .zip(dy.par_chunks(ROWS * width))
                .zip(factors.par_chunks(2 * ROWS * width));
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
                multiply_rows(&d_gate, gate, Add { present: true, ..Add::default() }, dx);
            });
        });
        tensor(dx, shape)
    }
}

/// Rows whose gradients of both halves are held at once on the way back.
pub(super) fn rows_held(rows: usize) -> usize {
    rows.min(ROWS * rayon::current_num_threads())
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
