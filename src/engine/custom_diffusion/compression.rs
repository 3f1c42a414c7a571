//! Compression of a delta: the largest singular values of each matrix's change.
//!
//! `ΔW = U Σ Vᵀ` is cut to `E P` with `E = U Σ` and `P = Vᵀ`, both of the kept singular values alone. No other product of
//! this rank is closer to `ΔW` (Eckart and Young). The paper keeps 60 % of the sum of the singular values.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use nalgebra::DMatrix;
use rayon::prelude::*;

use super::delta::Delta;
use super::delta_weights::{DeltaWeights, Factors};
use crate::domain::compression::{CompressedMatrix, CompressionReport, Keep};
use crate::engine::error::{EngineError, Result};
use crate::engine::flow::Flow;

/// Singular values below this share of the largest are rounding.
const NOISE: f64 = 1e-9;
/// By how much a share may miss what is asked for, so that rounding costs no further singular value.
const SHARE_ROUNDING: f64 = 1e-6;

/// Compresses a delta; the result contains the same concepts.
///
/// The sizes of the report are left at 0.
///
/// - `base`: the base model's matrices by name, on any device
/// - `observe`: called after each matrix with how many are done, on any thread
///
/// # Errors
/// [`EngineError::InvalidInput`] for a delta without matrices, [`EngineError::Stopped`] if `observe` said so.
pub fn compress(
    delta: &Delta,
    base: &BTreeMap<String, Tensor>,
    keep: Keep,
    observe: &(dyn Fn() -> Flow + Sync),
) -> Result<(Delta, CompressionReport)> {
    let names = delta.weights.names();
    if names.is_empty() {
        let text =
            "the delta has modifier tokens alone and no matrices: there is nothing to compress";
        return Err(EngineError::InvalidInput(text.to_owned()));
    }
    let cut = names.par_iter().map(|name| {
        if observe() == Flow::Stop {
            return Err(EngineError::Stopped);
        }
        let weight = base.get(*name).ok_or_else(|| EngineError::WeightMissing {
            name: (*name).to_owned(),
            file: "the base model".into(),
        })?;
        Ok(Spectrum::of(&delta.weights.difference(name, weight)?)?.cut(keep))
    });
    let cut: Vec<Cut> = cut.collect::<Result<_>>()?;
    let mut matrices = Vec::new();
    let mut factors = BTreeMap::new();
    let mut all = Sums::default();
    for (name, cut) in names.into_iter().zip(cut) {
        all.add(&cut.sums);
        matrices.push(CompressedMatrix {
            weight: name.to_owned(),
            rank: cut.rank,
            kept_energy: cut.sums.kept_energy(),
            error: cut.sums.error(),
        });
        let (e, p) = (to_tensor(&cut.e)?, to_tensor(&cut.p)?);
        factors.insert(name.to_owned(), Factors { e, p });
    }
    let mut metadata = delta.metadata.clone();
    let (what, number) = match keep {
        Keep::Rank(rank) => ("compressed_to_rank", rank.to_string()),
        Keep::Energy(energy) => ("compressed_to_energy", energy.to_string()),
    };
    metadata.insert(what.to_owned(), number);
    let report = CompressionReport {
        matrices,
        kept_energy: all.kept_energy(),
        error: all.error(),
        source_size_bytes: 0,
        size_bytes: 0,
    };
    let weights = DeltaWeights::Factorized(factors);
    Ok((Delta { weights, metadata, ..delta.clone() }, report))
}

/// The singular values of a matrix's change, the largest first, and what they belong to.
struct Spectrum {
    values: Vec<f64>,
    /// `U Σ`, `(inner, values)`.
    e: DMatrix<f64>,
    /// `Vᵀ`, `(values, text_dim)`.
    p: DMatrix<f64>,
}

impl Spectrum {
    fn of(change: &DMatrix<f64>) -> Result<Self> {
        let svd = change.clone().svd(true, true);
        let (Some(u), Some(p)) = (svd.u, svd.v_t) else {
            return Err(EngineError::InvalidInput("a change has no singular values".to_owned()));
        };
        let values = svd.singular_values.as_slice().to_vec();
        let mut e = u;
        for (mut column, value) in e.column_iter_mut().zip(&values) {
            column *= *value;
        }
        Ok(Self { values, e, p })
    }

    fn cut(self, keep: Keep) -> Cut {
        let rank = kept(&self.values, keep);
        let mut sums = Sums::default();
        for (index, &value) in self.values.iter().enumerate() {
            sums.value(value, index < rank);
        }
        Cut {
            rank,
            e: self.e.columns(0, rank).into_owned(),
            p: self.p.rows(0, rank).into_owned(),
            sums,
        }
    }
}

/// How many singular values are kept: at least one, and none that is rounding.
fn kept(values: &[f64], keep: Keep) -> usize {
    let most = values.first().copied().unwrap_or_default();
    let real = values.iter().filter(|&&value| value > NOISE * most).count().max(1);
    let wanted = match keep {
        Keep::Rank(rank) => rank,
        Keep::Energy(share) => {
            let asked = (share - SHARE_ROUNDING) * values.iter().sum::<f64>();
            let mut sum = 0.0;
            1 + values
                .iter()
                .take_while(|&&value| {
                    sum += value;
                    sum < asked
                })
                .count()
        }
    };
    wanted.clamp(1, real)
}

/// What is kept of one matrix's change.
struct Cut {
    rank: usize,
    e: DMatrix<f64>,
    p: DMatrix<f64>,
    sums: Sums,
}

/// Sums over singular values.
#[derive(Default)]
struct Sums {
    kept: f64,
    all: f64,
    lost_squares: f64,
    squares: f64,
}

impl Sums {
    fn value(&mut self, value: f64, is_kept: bool) {
        self.all += value;
        self.squares += value * value;
        match is_kept {
            true => self.kept += value,
            false => self.lost_squares += value * value,
        }
    }

    fn add(&mut self, other: &Self) {
        self.kept += other.kept;
        self.all += other.all;
        self.lost_squares += other.lost_squares;
        self.squares += other.squares;
    }

    fn kept_energy(&self) -> f64 {
        if self.all > 0.0 { self.kept / self.all } else { 1.0 }
    }

    fn error(&self) -> f64 {
        if self.squares > 0.0 { (self.lost_squares / self.squares).sqrt() } else { 0.0 }
    }
}

impl DeltaWeights {
    /// `ΔW` of one matrix that is changed, in f64.
    ///
    /// - `weight`: the base model's
    fn difference(&self, name: &str, weight: &Tensor) -> Result<DMatrix<f64>> {
        if let Some((e, p)) = self.factors(name) {
            return Ok(to_matrix(e)? * to_matrix(p)?);
        }
        match self {
            Self::Dense(matrices) if matrices.contains_key(name) => {
                Ok(to_matrix(&matrices[name])? - to_matrix(weight)?)
            }
            Self::Dense(_) | Self::LowRank { .. } | Self::Factorized(_) => {
                Err(EngineError::WeightMissing { name: name.into(), file: "the delta".into() })
            }
        }
    }
}

fn to_matrix(tensor: &Tensor) -> Result<DMatrix<f64>> {
    let (rows, columns) = tensor.dims2()?;
    let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(DMatrix::from_row_slice(rows, columns, &values as &[f64]))
}

fn to_tensor(matrix: &DMatrix<f64>) -> Result<Tensor> {
    let (rows, columns) = matrix.shape();
    // nalgebra is column-major.
    let values: Vec<f32> = matrix.transpose().iter().map(|&value| value as f32).collect();
    Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::{Purpose, Random};

    fn random(rows: usize, columns: usize, seed: u64) -> DMatrix<f64> {
        let mut values = vec![0.0; rows * columns];
        Random::new(seed, Purpose::Noise, 0, 0).normals(&mut values);
        DMatrix::from_iterator(rows, columns, values.into_iter().map(f64::from))
    }

    /// A matrix with given singular values.
    fn with_values(rows: usize, columns: usize, values: &[f64]) -> DMatrix<f64> {
        let u = random(rows, values.len(), 1).qr().q();
        let v = random(columns, values.len(), 2).qr().q();
        let diagonal = DMatrix::from_diagonal(&nalgebra::DVector::from_column_slice(values));
        u * diagonal * v.transpose()
    }

    fn cut(matrix: &DMatrix<f64>, keep: Keep) -> Cut {
        Spectrum::of(matrix).unwrap().cut(keep)
    }

    #[test]
    fn an_energy_is_reached_by_as_few_singular_values_as_possible() {
        let matrix = with_values(48, 96, &[0.9, 0.05, 0.05]);
        for (energy, rank) in
            [(0.5, 1), (0.8, 1), (0.9, 1), (0.94, 2), (0.95, 2), (0.96, 3), (1.0, 3)]
        {
            assert_eq!(cut(&matrix, Keep::Energy(energy)).rank, rank, "{energy}");
        }
    }

    #[test]
    fn a_rank_beyond_the_matrix_keeps_it_exactly() {
        for (rows, columns) in [(48, 96), (96, 48), (7, 7)] {
            let matrix = random(rows, columns, 3);
            let side = rows.min(columns);
            for (asked, rank) in [(1, 1), (side - 1, side - 1), (side, side), (200, side)] {
                let cut = cut(&matrix, Keep::Rank(asked));

                assert_eq!(cut.rank, rank, "{rows}×{columns} at {asked}");
                let error = (&cut.e * &cut.p - &matrix).norm() / matrix.norm();
                assert!((error - cut.sums.error()).abs() < 1e-9, "{error} {}", cut.sums.error());
                assert!(rank < side || error < 1e-12, "{rows}×{columns} at {asked}: {error}");
            }
        }
    }

    #[test]
    fn a_change_of_rank_one_stays_one_and_no_change_is_no_division_by_zero() {
        let one = with_values(64, 32, &[3.0]);
        let none = DMatrix::zeros(64, 32);
        for keep in [Keep::Energy(0.01), Keep::Energy(1.0), Keep::Rank(1), Keep::Rank(9)] {
            let of_one = cut(&one, keep);
            let of_none = cut(&none, keep);

            assert_eq!((of_one.rank, of_none.rank), (1, 1), "{keep:?}");
            assert!(of_one.sums.error() < 1e-9 && of_one.sums.kept_energy() > 1.0 - 1e-9);
            assert!(of_none.sums.error() <= 0.0 && of_none.sums.kept_energy() >= 1.0);
            assert!(of_none.e.iter().chain(of_none.p.iter()).all(|value| value.is_finite()));
        }
    }
}
