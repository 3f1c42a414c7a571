//! The sizes that products are cut to.

/// Columns of a panel.
pub(crate) const PANEL: usize = 16;
pub(crate) const PANELS: usize = 3;
/// Rows and panels that the kernel computes at once.
pub(crate) const ROWS: usize = 8;
/// Columns of the kernel's tile.
pub(crate) const TILE: usize = PANELS * PANEL;
/// Depth of a block: a tile of it fits the second-level cache many times.
pub(crate) const DEPTH_BLOCK: usize = 192;
/// Numbers of one factor, or of the product, that the second-level cache holds beside the others.
pub(crate) const HELD: usize = 96 << 10;
