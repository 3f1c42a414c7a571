//! How exactly the CPU computes.

/// How f32 on the CPU is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Every sum as the definition has it.
    Exact,
    /// 3×3 convolutions by Winograd's minimal filtering, whose error is about twice as large.
    #[default]
    Fast,
}
