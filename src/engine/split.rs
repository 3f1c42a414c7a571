//! How a network's calls are divided among the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{error::Result, weights::WeightFiles};

/// Models up to this size are read by each thread for itself, in bytes.
const SMALL_MODEL: u64 = 64 << 20;

/// What of a network's call the threads divide among themselves.
///
/// The elements of a batch do not see each other. Where the weights are small enough to be read once per thread, each
/// thread takes its share of the elements through the whole network: what a layer leaves in the cache is there for the
/// next, and no thread waits between layers. Larger models, and single elements, are divided within each operation.
/// Either way an element has the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Elements,
    Operations,
}

impl Split {
    /// What suits a model of these weights.
    pub(crate) fn of(files: &WeightFiles) -> Self {
        match files.is_on_cpu() && files.size_bytes() <= SMALL_MODEL {
            true => Self::Elements,
            false => Self::Operations,
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
            Self::Operations => 1,
        };
        if parts <= 1 {
            return Ok(vec![f(0..batch)?]);
        }
        let range = |part: usize| part * batch / parts..(part + 1) * batch / parts;
        (0..parts).into_par_iter().map(|part| f(range(part))).collect()
    }
}
