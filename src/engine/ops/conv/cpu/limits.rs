//! Which filters are worth a second copy.

/// Filters up to this size are packed or kept transformed, in bytes; larger ones are read where they lie, in each call
/// anew.
pub(crate) const MAX_CACHED_BYTES: usize = 4 << 20;
