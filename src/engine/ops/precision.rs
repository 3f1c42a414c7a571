//! The choice between speed and exactness on the CPU.

/// How f32 on the CPU is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Every sum is taken as in the definition.
    Exact,
    /// 3×3 convolutions use Winograd's minimal filtering, whose error is about twice as large.
    #[default]
    Fast,
    /// The same; linear layers, projections and attention round the factors of their products to bf16 and sum in f32.
    ///
    /// It needs a CPU with [bf16 products](super::InstructionSet::multiplies_bf16). Tensors, normalizations, other convolutions
    /// than those of one pixel, and the backward pass of attention stay in f32.
    Bf16,
}
