//! The sizes of the blocks that a product is cut into.

/// Columns of a panel: the lanes of a register of 512 bits, or of two or four smaller ones.
pub(crate) const PANEL: usize = 16;
/// Panels of a micro-panel.
pub(crate) const PANELS: usize = 3;
/// Most rows of a micro-tile, which the kernel computes at once. How many there are depends on the instruction set.
pub(crate) const MR: usize = 8;
/// Columns of a micro-tile.
pub(crate) const NR: usize = PANELS * PANEL;
/// Floats of one operand that the second-level cache holds beside the other two.
pub(crate) const L2_FLOATS: usize = 96 << 10;

/// How long the blocks are that the depth is cut into. Sums have these blocks, so another length would give images of
/// earlier versions other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// So long that a tile's columns stay in the first-level cache while the rows pass by.
    Short,
    /// Longer: the columns pass by in the second-level cache, and the result is added to less often.
    Long,
}
