//! What operations keep for their way back and hold on it, beside what they are given and what they return, in bytes.
//!
//! The kernels of the CPU hold little: the numbers here are those of `elsewhere.rs`, where each step makes a tensor.

use candle_core::DType;

use super::attention::{QUERIES, Softmax};
use super::chunks::CHUNK_FLOATS;
use super::geglu;

/// The sizes of numbers where an operation runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workspace {
    /// Of activations.
    pub(crate) narrow: u64,
    /// Of what sums are taken in.
    wide: u64,
    /// Whether our kernels for f32 on the CPU compute it.
    kernels: bool,
}

impl Workspace {
    pub(crate) fn of(dtype: DType, on_cpu: bool) -> Self {
        let narrow = dtype.size_in_bytes() as u64;
        Self { narrow, wide: narrow.max(4), kernels: on_cpu && dtype == DType::F32 }
    }

    /// Numbers of a group of rows that go through together.
    fn group(rows: u64, size: u64) -> u64 {
        rows.min((CHUNK_FLOATS as u64 / size.max(1)).max(1)) * size
    }

    /// Of images of `size` numbers: seven steps of the widest.
    pub(crate) fn group_norm(&self, images: u64, size: u64) -> u64 {
        if self.kernels { 0 } else { 7 * self.wide * Self::group(images, size) }
    }

    /// Of rows of `in_features` numbers that are projected to `width`, of which one half gates the other.
    pub(crate) fn geglu(&self, rows: u64, in_features: u64, width: u64) -> u64 {
        if self.kernels {
            let held = geglu::backward_rows(rows as usize);
            return self.wide * (held as u64 * width + rows * in_features);
        }
        let half = Self::group(rows, width) / 2;
        self.narrow * rows * width + (7 * self.wide + 3 * self.narrow) * half
    }

    /// Of so many logits for each pair of a query and a key, in all heads.
    pub(crate) fn attention(&self, images: u64, heads: u64, queries: u64, keys: u64) -> u64 {
        let logits = heads * queries.min(QUERIES as u64) * keys;
        if self.kernels {
            return 0;
        }
        3 * self.wide * Self::group(images, logits)
    }

    /// What attention keeps of so many rows of logits.
    pub(crate) fn softmaxes(&self, rows: u64) -> u64 {
        if self.kernels { rows * std::mem::size_of::<Softmax>() as u64 } else { 0 }
    }

    /// Of filters with so many numbers, over images of `size` numbers once they are gathered.
    pub(crate) fn conv(&self, filters: u64, images: u64, size: u64) -> u64 {
        if self.kernels { 0 } else { self.narrow * (filters + 2 * Self::group(images, size)) }
    }
}
