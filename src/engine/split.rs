//! How a network's calls are divided among the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{error::Result, weights::WeightFiles};

/// Models up to this size are read by each thread for itself, in bytes.
const SMALL_MODEL: u64 = 64 << 20;

/// How the threads divide a network's call.
///
/// The elements of a batch do not see each other. Where the weights are small enough to be read once per thread, each
/// thread takes its share of the elements through the whole network: what a layer leaves in the cache is there for the
/// next, and no thread waits between layers. Larger models, and single elements, are divided within each operation.
/// Either way an element has the same bytes. A GPU divides its work itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Elements,
    Operations,
    OnDevice,
}

impl Split {
    /// Chooses by the size of the model's weights.
    pub(crate) fn of(files: &WeightFiles) -> Self {
        match files.is_on_cpu() {
            true if files.size_bytes() <= SMALL_MODEL => Self::Elements,
            true => Self::Operations,
            false => Self::OnDevice,
        }
    }

    /// Runs `f` on one of the pool's own threads, unless a GPU does the work.
    ///
    /// Otherwise every operation in `f` would wake the pool from outside, which costs as much as a small one.
    pub(crate) fn on_pool<T: Send>(self, f: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Elements | Self::Operations => rayon::scope(|_| f()),
            Self::OnDevice => f(),
        }
    }

    /// Applies `f` to ranges that make up `0..batch`, in order.
    pub(crate) fn map<T: Send>(
        self,
        batch: usize,
        f: impl Fn(Range<usize>) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let parts = match self {
            Self::Elements => rayon::current_num_threads().min(batch),
            Self::Operations | Self::OnDevice => 1,
        };
        if parts <= 1 {
            return Ok(vec![self.on_pool(|| f(0..batch))?]);
        }
        let range = |part: usize| part * batch / parts..(part + 1) * batch / parts;
        (0..parts).into_par_iter().map(|part| f(range(part))).collect()
    }
}
