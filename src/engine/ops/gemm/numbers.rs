//! What a product multiplies.

/// What the floats of both factors of a product stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    Floats,
    /// Each float has the bits of two bf16 numbers, consecutive steps of the depth, the first one in its lower half.
    Bf16Pairs,
}
