//! What the allocator does with freed memory; the programs choose the allocator, mimalloc.

use std::time::Duration;

/// How long freed memory is kept. A step of a network frees what the next one needs. Getting it from the system again,
/// cleared, took a twentieth of a training step of `tiny`.
///
/// At the end of this time, what was freed a moment ago goes back as well, as `strace` showed.
pub const KEPT: Duration = Duration::from_secs(300);

/// Keeps freed memory for `duration` before it is returned to the system.
pub fn keep_freed_memory(duration: Duration) {
    /// `mi_option_purge_delay` of `mimalloc.h`, in milliseconds.
    const PURGE_DELAY: std::ffi::c_int = 15;
    let milliseconds = duration.as_millis().try_into().unwrap_or(std::ffi::c_long::MAX);
    // SAFETY: sets a number of the allocator's.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, milliseconds) };
}

/// Returns freed memory to the system now: after a piece of work that took far more than the next is likely to.
pub fn return_freed_memory() {
    // SAFETY: collects what is free.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
