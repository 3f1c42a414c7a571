//! The activation functions by name.

/// An activation function.
#[derive(Clone, Copy)]
pub(crate) enum Function {
    Silu,
    Gelu,
    QuickGelu,
}
