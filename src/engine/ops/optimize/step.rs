//! The coefficients of AdamW.

/// The coefficients of one step of AdamW.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Factor of the gradient, such as that of clipping.
    pub gradient_scale: f64,
    pub betas: (f64, f64),
    /// Learning rate over the first moment's bias correction.
    pub rate: f64,
    /// One over the square root of the second moment's bias correction.
    pub second_scale: f64,
    pub epsilon: f64,
    /// Factor of the parameter: one less its decay.
    pub kept: f64,
}
