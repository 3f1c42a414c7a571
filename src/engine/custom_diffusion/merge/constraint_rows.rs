//! The rows of text features that a merge constrains.

use candle_core::{Device, Tensor};

use super::closed_form::{SolvedRows, System, independent_rows};
use crate::engine::error::Result;

/// Rows closer than this in every component are one constraint.
const SAME_ROW: f64 = 1e-5;

/// The rows of a merge's system, one below the other.
#[derive(Default)]
pub(super) struct ConstraintRows {
    known: Vec<Vec<f64>>,
    features: Vec<Tensor>,
    d: Vec<Tensor>,
}

impl ConstraintRows {
    /// Rows so far.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn add(&mut self, rows: &SolvedRows) -> Result<()> {
        self.known.extend(rows.features.to_vec2()?);
        self.features.push(rows.features.clone());
        self.d.push(rows.d.clone());
        Ok(())
    }

    /// Leaves out what is there already: a protected noun that one of the deltas teaches, the end of a shared prompt.
    pub(super) fn add_unknown(&mut self, rows: &SolvedRows) -> Result<()> {
        let mut kept = Vec::new();
        for (index, row) in rows.features.to_vec2::<f64>()?.into_iter().enumerate() {
            let same =
                |known: &Vec<f64>| known.iter().zip(&row).all(|(a, b)| (a - b).abs() < SAME_ROW);
            if !self.known.iter().any(same) {
                self.known.push(row);
                kept.push(index as u32);
            }
        }
        if !kept.is_empty() {
            let kept = Tensor::new(kept, &Device::Cpu)?;
            self.features.push(rows.features.index_select(&kept, 0)?);
            self.d.push(rows.d.index_select(&kept, 0)?);
        }
        Ok(())
    }

    /// - `targets`: rows with changes, which come first
    pub(super) fn into_system(
        self,
        targets: usize,
        constraint_weight: Option<f64>,
    ) -> Result<System> {
        let (features, d) = (Tensor::cat(&self.features, 0)?, Tensor::cat(&self.d, 0)?);
        if constraint_weight.is_some() {
            return System::new(&features, d, constraint_weight);
        }
        // Equality is possible for as many rows as the text space has dimensions. Beyond that, protected rows are left
        // out.
        let kept = Tensor::new(independent_rows(&features, &d, targets)?, &Device::Cpu)?;
        System::new(&features.index_select(&kept, 0)?, d.index_select(&kept, 0)?, None)
    }
}
