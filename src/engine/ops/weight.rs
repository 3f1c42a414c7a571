//! Frozen weights, read in place from the file of their checkpoint where possible.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use memmap2::Mmap;

use super::buffer::{filled, has_kernels, values};
use super::precision::Precision;

/// A weight that never changes, in row-major order: a part of a mapped file, or a tensor.
///
/// For f32 on the CPU, large weights are read from the mapped file itself. Loading a model then takes no memory but the
/// system's cache of the file, which all processes share.
#[derive(Clone)]
pub struct FrozenWeight {
    shape: Vec<usize>,
    source: Source,
    precision: Precision,
    has_few_rows: bool,
}

#[derive(Clone)]
enum Source {
    Tensor(Tensor),
    File(CpuWeight),
}

/// A weight in the form that its device needs.
pub(crate) enum Backend {
    /// f32 on the CPU, for our kernels.
    Cpu(CpuWeight),
    /// For candle.
    Candle(Tensor),
}

/// Immutable f32 values in memory, in a mapped file or owned.
#[derive(Clone)]
pub(crate) struct CpuWeight {
    memory: Memory,
    start: usize,
    len: usize,
    /// How products with it are computed.
    precision: Precision,
    /// Whether its products have few rows.
    has_few_rows: bool,
}

#[derive(Clone)]
enum Memory {
    /// From this byte on.
    File(Arc<Mmap>, usize),
    Owned(Arc<Vec<f32>>),
}

impl From<Tensor> for FrozenWeight {
    fn from(tensor: Tensor) -> Self {
        Self {
            shape: tensor.dims().to_vec(),
            source: Source::Tensor(tensor),
            precision: Precision::default(),
            has_few_rows: false,
        }
    }
}

impl FrozenWeight {
    /// The f32 values of `file` from byte `start` on, in row-major order of `shape`.
    ///
    /// Returns `None` if the file is too short, or if the CPU cannot read the values in place: they must be
    /// little-endian and start at a multiple of four bytes.
    pub fn mapped(file: &Arc<Mmap>, start: usize, shape: &[usize]) -> Option<Self> {
        let len: usize = shape.iter().product();
        let bytes = file.get(start..)?.get(..len * std::mem::size_of::<f32>())?;
        if cfg!(target_endian = "big") || bytemuck::try_cast_slice::<u8, f32>(bytes).is_err() {
            return None;
        }
        let precision = Precision::default();
        let memory = Memory::File(file.clone(), start);
        let weight = CpuWeight { memory, start: 0, len, precision, has_few_rows: false };
        let source = Source::File(weight);
        Some(Self { shape: shape.to_vec(), source, precision, has_few_rows: false })
    }

    /// Its dimensions, as the `new` of an operation documents them.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The same weight, for products that are computed in this way.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The same weight, for products of few rows, such as the 77 tokens of a prompt.
    ///
    /// On the CPU, a linear layer then keeps a copy in the order in which it multiplies, whatever the size.
    #[must_use]
    pub fn with_few_rows(self) -> Self {
        Self { has_few_rows: true, ..self }
    }

    /// The weight for its device. A tensor on the CPU is copied.
    pub(crate) fn backend(self) -> Result<Backend> {
        let Self { precision, has_few_rows, .. } = self;
        match self.source {
            Source::File(weight) => {
                Ok(Backend::Cpu(CpuWeight { precision, has_few_rows, ..weight }))
            }
            Source::Tensor(tensor) if has_kernels(&tensor) => {
                let tensor = tensor.contiguous()?;
                let values = values(&tensor)?;
                let own = filled(values.len(), |own| own.copy_from_slice(&values));
                let len = own.len();
                let memory = Memory::Owned(Arc::new(own));
                Ok(Backend::Cpu(CpuWeight { memory, start: 0, len, precision, has_few_rows }))
            }
            Source::Tensor(tensor) => Ok(Backend::Candle(tensor)),
        }
    }
}

impl CpuWeight {
    /// All values.
    pub(crate) fn values(&self) -> &[f32] {
        let range = self.start..self.start + self.len;
        match &self.memory {
            Memory::File(file, first) => {
                let size = std::mem::size_of::<f32>();
                bytemuck::cast_slice(&file[first + range.start * size..first + range.end * size])
            }
            Memory::Owned(values) => &values[range],
        }
    }

    /// Part `index` of `count` parts of one length.
    pub(crate) fn part(&self, index: usize, count: usize) -> Self {
        let len = self.len / count;
        Self { start: self.start + index * len, len, ..self.clone() }
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    pub(crate) fn has_few_rows(&self) -> bool {
        self.has_few_rows
    }

    pub(crate) fn size_bytes(&self) -> usize {
        std::mem::size_of::<f32>() * self.len
    }
}
