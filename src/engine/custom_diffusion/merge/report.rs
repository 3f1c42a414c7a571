//! How well a merge went.

use candle_core::{DType, Device, Tensor};

use super::statistics::RegularizationStatistics;
use super::{Merge, PackUse};
use crate::domain::merge::{MergeRecipe, MergeReport, PairReport};
use crate::engine::error::Result;
use crate::engine::ops;

/// A merge's error, and what was asked of it, as sums of squares over one delta's rows.
#[derive(Clone, Copy, Default)]
struct Residual {
    missed: f64,
    asked: f64,
}

impl Residual {
    fn ratio(all: &[Self]) -> f64 {
        let missed: f64 = all.iter().map(|one| one.missed.max(0.0)).sum();
        let asked: f64 = all.iter().map(|one| one.asked).sum();
        if missed <= 0.0 {
            return 0.0; // also where nothing is asked for
        }
        (missed / asked.max(f64::MIN_POSITIVE)).sqrt()
    }

    /// The error over one delta's rows. A delta of modifier tokens alone asks for no change of keys and values; its error is
    /// relative to what all ask for.
    fn of_one(self, all: &[Self]) -> f64 {
        let asked = match self.asked > 0.0 {
            true => self.asked,
            false => all.iter().map(|one| one.asked).sum(),
        };
        Self::ratio(&[Self { asked, ..self }])
    }
}

impl Merge {
    /// Reports on all deltas together and on each pair.
    pub fn report(
        &self,
        statistics: &RegularizationStatistics,
        recipe: &MergeRecipe,
    ) -> Result<MergeReport> {
        let (residuals, drift) = self.residuals(statistics)?;
        let packs: Vec<PackUse> = self.packs.iter().map(|(used, _)| used.clone()).collect();
        let mut alone = Vec::new();
        for used in &packs {
            let only = Self::solve(statistics, std::slice::from_ref(used), recipe)?;
            alone.extend(only.residuals(statistics)?.0);
        }
        let mut pairs = Vec::new();
        for (i, first) in packs.iter().enumerate() {
            for (j, second) in packs.iter().enumerate().skip(i + 1) {
                let (of_pair, drift) = if packs.len() == 2 {
                    (residuals.clone(), drift)
                } else {
                    let two = [first.clone(), second.clone()];
                    Self::solve(statistics, &two, recipe)?.residuals(statistics)?
                };
                let features = [first.pack.features(), second.pack.features()];
                let kept = first.pack.kept_after_other.zip(second.pack.kept_after_other);
                pairs.push(PairReport {
                    pair: (i, j),
                    overlap: statistics.regularization.overlap(features[0], features[1])?,
                    constraint_error: Residual::ratio(&of_pair),
                    constraint_error_alone: Residual::ratio(&[alone[i], alone[j]]),
                    drift,
                    kept_after_other: kept.map(|(first, second)| first.min(second)),
                });
            }
        }
        Ok(MergeReport {
            constraint_error: Residual::ratio(&residuals),
            drift,
            condition: self.system.condition(),
            deltas: residuals.iter().map(|one| one.of_one(&residuals)).collect(),
            kept_after_other: packs.iter().map(|used| used.pack.kept_after_other).collect(),
            pairs,
        })
    }

    /// The error over each delta's rows, and the drift.
    fn residuals(&self, statistics: &RegularizationStatistics) -> Result<(Vec<Residual>, f64)> {
        let changes = self.changes()?;
        let gram = ops::matmul(&changes, &changes.t()?)?.to_dtype(DType::F64)?; // Eᵀ E
        // ‖A Eᵀ‖² for rows `A` of coefficients.
        let energy = |a: &Tensor| -> Result<f64> {
            Ok((a.matmul(&gram)? * a)?.sum_all()?.to_scalar::<f64>()?)
        };
        let asked = self.weighted(&Tensor::eye(self.targets, DType::F64, &Device::Cpu)?)?;
        let mut residuals = Vec::new();
        let mut start = 0;
        for (_, solved) in &self.packs {
            let rows = solved.targets.len()?;
            let got = self.weighted(&self.system.coefficients(&solved.targets.features)?)?;
            let asked = asked.narrow(0, start, rows)?;
            residuals.push(Residual { missed: energy(&(got - &asked)?)?, asked: energy(&asked)? });
            start += rows;
        }
        // ‖H ΔWᵀ‖² = tr(Eᵀ E · P HᵀH Pᵀ)
        let p = self.p()?;
        let moved = p.matmul(&statistics.held_out)?.matmul(&p.t()?)?;
        let moved = (moved * gram)?.sum_all()?.to_scalar::<f64>()?;
        Ok((residuals, (moved.max(0.0) / statistics.held_out_scale).sqrt()))
    }
}
