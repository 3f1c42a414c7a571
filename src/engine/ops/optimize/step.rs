//! The settings of one step of AdamW.

/// The numbers of one step of AdamW.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// What the gradient is multiplied by, such as the factor of clipping.
    pub gradient_scale: f64,
    pub betas: (f64, f64),
    /// Learning rate over the first moment's bias correction.
    pub rate: f64,
    /// One over the square root of the second moment's bias correction.
    pub second_scale: f64,
    pub epsilon: f64,
    /// What is left of the parameter after its decay.
    pub kept: f64,
}
