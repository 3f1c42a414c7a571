//! The rows of a batch, shared out among the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{error::Result, weights::WeightFiles};

/// Models up to this size are read by each thread for itself, in bytes.
const SMALL_MODEL: u64 = 64 << 20;

/// How a model's calls are spread over the threads.
///
/// The rows of a batch do not see each other. Where the weights are small enough to be read once per thread, each takes
/// its share of the rows through the whole network: what a layer leaves in the cache is there for the next, and nobody
/// waits between layers. Larger models, and single rows, are shared out within each operation. Either way a row has
/// the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Rows,
    Operations,
}

impl Split {
    /// The way for a model of these weights.
    pub(crate) fn of(files: &WeightFiles) -> Self {
        match files.is_on_cpu() && files.size_bytes() <= SMALL_MODEL {
            true => Self::Rows,
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
            Self::Rows => rayon::current_num_threads().min(batch),
            Self::Operations => 1,
        };
        if parts <= 1 {
            return Ok(vec![f(0..batch)?]);
        }
        let range = |part: usize| part * batch / parts..(part + 1) * batch / parts;
        (0..parts).into_par_iter().map(|part| f(range(part))).collect()
    }
}
