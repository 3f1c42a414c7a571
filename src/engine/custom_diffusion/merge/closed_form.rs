//! The merge as a constrained least-squares problem (paper §3.3, equations 4 and 5).
//!
//! With captions' features `C_reg` and target features `C` whose values `V` are given, each projection becomes the
//! `W` that minimises `‖(W − W₀) C_regᵀ‖²` subject to `W Cᵀ = V`, or, with the soft constraint of weight μ,
//! `‖(W − W₀) C_regᵀ‖² + μ ‖W Cᵀ − V‖²`. Both have the solution
//!
//! `ΔW = E P`, `P = (S + μ⁻¹ I)⁻¹ D`, `D = C G⁻¹`, `S = D Cᵀ`, `G = C_regᵀ C_reg`, `E = V − W₀ Cᵀ`
//!
//! (μ⁻¹ = 0 if the constraint is hard). Only `E` depends on the layer, so all layers share `P`.

use candle_core::{DType, Device, Tensor};
use nalgebra::{Cholesky, DMatrix, Dyn};

use crate::engine::error::{EngineError, Result};

/// Condition numbers from which on rows count as dependent in double precision.
const MOST_CONDITION: f64 = 1e14;
/// The same for the captions' features, which are rounded to single precision.
const MOST_CAPTION_CONDITION: f64 = 1e12;
/// Share of a row that lies outside of the span of those before it, from which on it is independent of them.
const LEAST_PIVOT: f64 = 1e-6;

/// Features of ordinary captions, reduced to what a merge needs of them: computed once per base model.
pub(super) struct Regularization {
    factor: Cholesky<f64, Dyn>,
}

/// Rows of text features, and what a merge's system takes of each.
pub(super) struct SolvedRows {
    /// `C`, `(rows, text_dim)`, f64.
    pub(super) features: Tensor,
    /// `D = C G⁻¹`, `(rows, text_dim)`, f64.
    pub(super) d: Tensor,
}

impl SolvedRows {
    /// - `features`: `(rows, text_dim)`
    pub(super) fn new(regularization: &Regularization, features: &Tensor) -> Result<Self> {
        let features = features.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let d = regularization.solve(&features)?;
        Ok(Self { features, d })
    }

    pub(super) fn len(&self) -> Result<usize> {
        Ok(self.features.dim(0)?)
    }
}

/// The linear system of a merge's rows, factorised: everything of the solution but `E`.
pub(super) struct System {
    /// `D`, `(rows, text_dim)`, f64.
    d: Tensor,
    /// `S + μ⁻¹ I`.
    s: DMatrix<f64>,
    factor: Cholesky<f64, Dyn>,
}

impl Regularization {
    /// Takes the features of captions, `(rows, text_dim)`.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if they do not span the text space: too few captions.
    pub(super) fn new(features: &Tensor) -> Result<Self> {
        let text_dim = features.dim(1)?;
        let features = on_host(features)?;
        let gram = to_matrix(&features.t()?.matmul(&features)?)?;
        let factor = Cholesky::new(gram).filter(spans).ok_or_else(|| {
            EngineError::InvalidInput(format!(
                "the regularization captions do not span the model's {text_dim} text dimensions: give more of them, \
                 and more different ones"
            ))
        })?;
        Ok(Self { factor })
    }

    /// `L` of `G = L Lᵀ`, `(text_dim, text_dim)`, f64.
    pub(super) fn factor(&self) -> Result<Tensor> {
        rows(&self.factor.l().transpose())
    }

    /// From what [`Self::factor`] answered.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for anything else.
    pub(super) fn from_factor(factor: &Tensor) -> Result<Self> {
        let (height, width) = factor.dims2()?;
        let factor = Cholesky::pack_dirty(to_matrix(factor)?);
        if height != width || !spans(&factor) {
            return Err(EngineError::InvalidInput(
                "this is not the factor of a Gram matrix".into(),
            ));
        }
        Ok(Self { factor })
    }

    /// `D = C G⁻¹`, `(rows, text_dim)`, f64: the part of a merge that each row needs on its own.
    ///
    /// - `features`: `C`, `(rows, text_dim)`
    pub(super) fn solve(&self, features: &Tensor) -> Result<Tensor> {
        // nalgebra is column-major: a row-major matrix is its own transpose there.
        let mut columns = columns(features)?;
        self.factor.solve_mut(&mut columns);
        rows(&columns)
    }

    /// The largest cosine of the principal angles between the row spaces of two sets of features, in the metric in
    /// which captions are white: 1 means that both ask for a row in common.
    pub(super) fn overlap(&self, a: &Tensor, b: &Tensor) -> Result<f64> {
        let basis = |features: &Tensor| -> Result<DMatrix<f64>> {
            let columns = columns(features)?;
            let white = self.factor.l().solve_lower_triangular(&columns);
            Ok(white.unwrap_or(columns).qr().q())
        };
        let cosines = (basis(a)?.transpose() * basis(b)?).singular_values();
        Ok(cosines.max().min(1.0))
    }
}

impl System {
    /// - `features`: `C`, `(rows, text_dim)`
    /// - `d`: [`Regularization::solve`] of them
    /// - `constraint_weight`: μ; `None` asks for equality
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if μ is not positive, or if equality is asked of rows that depend on one another.
    pub(super) fn new(
        features: &Tensor,
        d: Tensor,
        constraint_weight: Option<f64>,
    ) -> Result<Self> {
        let softness = match constraint_weight {
            None => 0.0,
            Some(weight) if weight > 0.0 && weight.is_finite() => 1.0 / weight,
            Some(weight) => {
                return Err(EngineError::InvalidInput(format!(
                    "constraint_weight is {weight}: it must be above 0"
                )));
            }
        };
        let s = to_matrix(&d.matmul(&on_host(features)?.t()?)?)?;
        let mut s = (&s + s.transpose()) * 0.5; // symmetric but for rounding
        for i in 0..s.nrows() {
            s[(i, i)] += softness;
        }
        // Where rows depend on one another, the factor that rounding leaves is noise.
        let independent = |s: &DMatrix<f64>| softness > 0.0 || condition(s) < MOST_CONDITION;
        let factor =
            Cholesky::new(s.clone()).filter(|_| independent(&s)).ok_or_else(|| {
                EngineError::InvalidInput(
                    "the concepts' target features depend on one another, so they cannot all be kept exactly: \
                     give a constraint_weight"
                        .into(),
                )
            })?;
        Ok(Self { d, s, factor })
    }

    /// `P`, `(rows, text_dim)`, f64.
    pub(super) fn p(&self) -> Result<Tensor> {
        let p = self.factor.solve(&to_matrix(&self.d)?);
        Ok(rows(&p)?.t()?.contiguous()?)
    }

    /// `c Pᵀ`, `(tokens, rows)`, f64, for less than `P` itself costs.
    ///
    /// - `text`: `c`, `(tokens, text_dim)`
    pub(super) fn coefficients(&self, text: &Tensor) -> Result<Tensor> {
        let mut columns = columns(&on_host(text)?.matmul(&self.d.t()?)?)?;
        self.factor.solve_mut(&mut columns);
        rows(&columns)
    }

    /// Condition number of `S + μ⁻¹ I`.
    pub(super) fn condition(&self) -> f64 {
        condition(&self.s)
    }
}

/// The rows that do not depend on those before them; the first `needed` are kept in any case.
///
/// - `features`, `d`: as for [`System::new`]
pub(super) fn independent_rows(features: &Tensor, d: &Tensor, needed: usize) -> Result<Vec<u32>> {
    let s = to_matrix(&d.matmul(&on_host(features)?.t()?)?)?;
    let mut kept: Vec<usize> = Vec::new();
    let mut factor: Vec<Vec<f64>> = Vec::new(); // rows of the Cholesky factor of those that are kept
    for row in 0..s.nrows() {
        let mut line: Vec<f64> = Vec::with_capacity(kept.len() + 1);
        for (place, &other) in kept.iter().enumerate() {
            let known: f64 = line.iter().zip(&factor[place]).map(|(a, b)| a * b).sum();
            line.push((s[(row, other)] - known) / factor[place][place]);
        }
        let rest = s[(row, row)] - line.iter().map(|value| value * value).sum::<f64>();
        if row < needed || rest > LEAST_PIVOT * s[(row, row)] {
            line.push(rest.max(f64::MIN_POSITIVE).sqrt());
            factor.push(line);
            kept.push(row);
        }
    }
    Ok(kept.into_iter().map(|row| row as u32).collect())
}

/// Whether the Gram matrix has full rank in double precision: what rounding makes of a missing dimension is a pivot that
/// is tiny compared to the others.
fn spans(factor: &Cholesky<f64, Dyn>) -> bool {
    let pivots = factor.l_dirty().diagonal();
    let (least, most) = (pivots.min(), pivots.max());
    least > 0.0 && (most / least).powi(2) < MOST_CAPTION_CONDITION
}

fn condition(symmetric: &DMatrix<f64>) -> f64 {
    let eigenvalues = symmetric.symmetric_eigenvalues();
    eigenvalues.max() / eigenvalues.min().max(f64::MIN_POSITIVE)
}

fn on_host(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
}

/// The rows of a tensor as columns.
fn columns(tensor: &Tensor) -> Result<DMatrix<f64>> {
    let (rows, columns) = tensor.dims2()?;
    Ok(DMatrix::from_vec(columns, rows, on_host(tensor)?.flatten_all()?.to_vec1()?))
}

/// The columns of a matrix as rows of a tensor.
fn rows(matrix: &DMatrix<f64>) -> Result<Tensor> {
    let shape = (matrix.ncols(), matrix.nrows());
    Ok(Tensor::from_slice(matrix.as_slice(), shape, &Device::Cpu)?)
}

/// Row-major tensor to matrix.
fn to_matrix(tensor: &Tensor) -> Result<DMatrix<f64>> {
    Ok(columns(tensor)?.transpose())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, columns: usize, seed: u64) -> Tensor {
        let mut values = vec![0.0; rows * columns];
        crate::engine::random::Random::new(seed, crate::engine::random::Purpose::Noise, 0, 0)
            .normals(&mut values);
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn problem() -> (Regularization, Tensor, Tensor) {
        // Captions' features; `C`, `(rows, text_dim)`; and `E`, `(inner, rows)`.
        (Regularization::new(&random(60, 8, 1)).unwrap(), random(4, 8, 2), random(5, 4, 3))
    }

    fn solve(
        regularization: &Regularization,
        features: &Tensor,
        constraint_weight: Option<f64>,
    ) -> Result<Tensor> {
        let d = regularization.solve(features)?;
        System::new(features, d, constraint_weight)?.p()
    }

    /// The largest value of `ΔW Cᵀ − E`.
    fn residual(features: &Tensor, changes: &Tensor, p: &Tensor) -> f32 {
        let change = changes.matmul(&p.to_dtype(DType::F32).unwrap()).unwrap();
        let kept = change.matmul(&features.t().unwrap()).unwrap();
        (kept - changes).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn a_hard_constraint_is_met() {
        let (regularization, features, changes) = problem();

        let p = solve(&regularization, &features, None).unwrap();

        assert!(residual(&features, &changes, &p) < 1e-4);
    }

    #[test]
    fn a_soft_constraint_approaches_the_hard_one_as_its_weight_grows() {
        let (regularization, features, changes) = problem();
        let at = |weight| {
            let p = solve(&regularization, &features, Some(weight)).unwrap();
            residual(&features, &changes, &p)
        };

        assert!(at(1e6) < 1e-3);
        assert!(at(1.0) > at(100.0) && at(100.0) > at(1e6));
    }

    #[test]
    fn equality_on_repeated_rows_is_refused_and_says_what_to_do() {
        let (regularization, features, _) = problem();
        let repeated = Tensor::cat(&[&features, &features], 0).unwrap();

        let error = solve(&regularization, &repeated, None).err().unwrap().to_string();

        assert!(error.contains("give a constraint_weight"), "{error}");
        assert!(solve(&regularization, &repeated, Some(10.0)).is_ok());
    }

    #[test]
    fn too_few_captions_are_refused() {
        assert!(Regularization::new(&random(3, 8, 1)).is_err());
    }

    #[test]
    fn overlap_is_one_for_the_same_rows_and_small_for_other_ones() {
        let regularization = Regularization::new(&random(400, 64, 1)).unwrap();
        let (a, b) = (random(2, 64, 5), random(2, 64, 6));

        assert!((regularization.overlap(&a, &a).unwrap() - 1.0).abs() < 1e-6);
        assert!(regularization.overlap(&a, &b).unwrap() < 0.6);
    }
}
