//! The choice between speed and exactness on the CPU.

/// How f32 on the CPU is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Every sum is taken as in the definition.
    Exact,
    /// 3×3 convolutions use Winograd's minimal filtering, whose error is about twice as large.
    #[default]
    Fast,
    /// The same; linear layers, attention, and convolutions of one pixel or with large filters round the factors of their products
    /// to bf16 and sum in f32.
    ///
    /// It needs a CPU with [bf16 products](super::InstructionSet::multiplies_bf16). Tensors, normalizations, convolutions by Winograd's
    /// filtering and attention that a gradient goes through stay in f32.
    Bf16,
}
