//! The memory of operations beside their inputs and results, in bytes: what they keep for the backward pass, and what
//! they need during it.
//!
//! Our kernels need little. Most of these sizes are those of the operations in candle's tensors, where each step
//! allocates.

use candle_core::DType;

use super::attention::{BACKWARD_KEYS, QUERIES, Softmax};
use super::chunks::CHUNK_FLOATS;
use super::cuda::UNFOLDED;
use super::geglu;

/// The sizes of types where an operation runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workspace {
    /// Of activations, in bytes.
    pub(crate) narrow: u64,
    /// Of the type of norms, softmax and sums, in bytes.
    wide: u64,
    /// Whether our kernels run on the CPU.
    kernels: bool,
    on_cpu: bool,
    /// Numbers of gathered pixels at once, of a convolution.
    unfolded: usize,
}

impl Workspace {
    pub(crate) fn of(dtype: DType, on_cpu: bool) -> Self {
        let narrow = dtype.size_in_bytes() as u64;
        let kernels = on_cpu && dtype == DType::F32;
        let unfolded = if on_cpu { CHUNK_FLOATS } else { UNFOLDED };
        Self { narrow, wide: narrow.max(4), kernels, on_cpu, unfolded }
    }

    /// Numbers of one chunk of a batch.
    fn chunk(batch: u64, size: u64) -> u64 {
        Self::chunk_of(CHUNK_FLOATS, batch, size)
    }

    fn chunk_of(at_once: usize, batch: u64, size: u64) -> u64 {
        batch.min((at_once as u64 / size.max(1)).max(1)) * size
    }

    /// Group norm of images of `size` numbers: seven intermediate results in the wide type.
    pub(crate) fn group_norm(&self, images: u64, size: u64) -> u64 {
        if self.kernels { 0 } else { 7 * self.wide * Self::chunk(images, size) }
    }

    /// GEGLU of rows of `in_features` numbers that are projected to `width`.
    pub(crate) fn geglu(&self, rows: u64, in_features: u64, width: u64) -> u64 {
        if self.kernels {
            let at_once = geglu::backward_rows(rows as usize);
            return self.wide * (at_once as u64 * width + rows * in_features);
        }
        let half = Self::chunk(rows, width) / 2;
        self.narrow * rows * width + (7 * self.wide + 3 * self.narrow) * half
    }

    /// Attention of all heads.
    pub(crate) fn attention(&self, images: u64, heads: u64, queries: u64, keys: u64) -> u64 {
        let logits = heads * queries.min(QUERIES as u64) * keys;
        if self.kernels {
            return 0;
        }
        3 * self.wide * Self::chunk(images, logits)
    }

    /// Whether attention over so many keys keeps its result for the backward pass.
    pub(crate) fn attention_keeps_its_result(&self, keys: u64) -> bool {
        if self.kernels { keys > BACKWARD_KEYS as u64 } else { !self.on_cpu }
    }

    /// What attention keeps for so many queries beside its inputs and its result, counted once for each head.
    pub(crate) fn softmaxes(&self, rows: u64) -> u64 {
        if self.kernels { rows * std::mem::size_of::<Softmax>() as u64 } else { 0 }
    }

    /// Convolution by filters of so many numbers, of images that take `size` numbers once their pixels are gathered.
    pub(crate) fn conv(&self, filters: u64, images: u64, size: u64) -> u64 {
        if self.kernels {
            0
        } else {
            self.narrow * (filters + 2 * Self::chunk_of(self.unfolded, images, size))
        }
    }
}
