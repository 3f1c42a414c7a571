//! Values that are computed in parallel at their first use.

use std::sync::OnceLock;

/// The value of `cell`, which `init` computes at its first use.
///
/// `init` runs outside of the cell's lock. It uses several threads, and one that waits for the others takes up other
/// work meanwhile. If that work asked for the same cell, a thread that held the lock would wait for itself. Threads
/// that meet at the first use all compute the value, and the first result is kept.
pub(crate) fn get_or_init<T>(cell: &OnceLock<T>, init: impl FnOnce() -> T) -> &T {
    match cell.get() {
        Some(value) => value,
        None => {
            let value = init();
            cell.get_or_init(|| value)
        }
    }
}
