//! The activations by name.

/// A function of one number.
#[derive(Clone, Copy)]
pub(crate) enum Function {
    Silu,
    Gelu,
    QuickGelu,
}
