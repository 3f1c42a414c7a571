//! The sizes that products are cut to.

/// Columns of a panel.
pub(crate) const PANEL: usize = 16;
pub(crate) const PANELS: usize = 3;
/// Rows and panels that the kernel computes at once.
pub(crate) const MR: usize = 8;
/// Columns of the kernel's tile.
pub(crate) const NR: usize = PANELS * PANEL;
/// Depth of a block: a tile of it fits the second-level cache many times.
pub(crate) const KC: usize = 192;
/// Numbers of one factor, or of the product, that the second-level cache holds beside the others.
pub(crate) const L2_FLOATS: usize = 96 << 10;
