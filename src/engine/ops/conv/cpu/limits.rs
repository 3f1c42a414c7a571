//! Which filters are kept in a second form.

/// Largest filters that are packed, or whose transforms are cached, in bytes. Larger ones are read in place and
/// transformed again in each call.
pub(crate) const MAX_CACHED_BYTES: usize = 4 << 20;
