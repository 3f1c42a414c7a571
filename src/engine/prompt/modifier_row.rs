//! The embedding row of a modifier token at part of its concept's strength.

/// A learned embedding row, and the row that its training started from.
#[derive(Clone)]
pub(crate) struct ModifierRow {
    pub(crate) token: String,
    /// The initializer token's row; `None` where a delta does not name its initializer.
    pub(crate) start: Option<Vec<f32>>,
    pub(crate) learned: Vec<f32>,
    /// The strength of its delta in a merge; 1 outside of merges.
    pub(crate) strength: f64,
}

impl ModifierRow {
    /// `E₀ + strength (E − E₀)` at `share` of its strength. A row whose start is not known is the same at any strength.
    pub(crate) fn at(&self, share: f64) -> Vec<f32> {
        let strength = share * self.strength;
        match &self.start {
            Some(start) if !is_full_strength(strength) => {
                let pairs = start.iter().zip(&self.learned);
                pairs.map(|(start, end)| start + strength as f32 * (end - start)).collect()
            }
            Some(_) | None => self.learned.clone(),
        }
    }
}

/// Whether a delta is used as it was learned: then its own numbers are taken, without rounding.
pub(crate) fn is_full_strength(strength: f64) -> bool {
    (strength - 1.0).abs() < f64::EPSILON
}
