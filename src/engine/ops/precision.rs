//! The choice between speed and exactness on the CPU.

/// How f32 on the CPU is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Every sum is taken as in the definition.
    Exact,
    /// 3×3 convolutions use Winograd's minimal filtering, whose error is about twice as large.
    #[default]
    Fast,
}
