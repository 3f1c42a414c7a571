//! Frozen weights, read in place from the file of their checkpoint where possible.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use memmap2::{Mmap, UncheckedAdvice};

use super::buffer::{filled, has_kernels, values};
use super::gemm::TrainingCopies;
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
    File(FilePart),
    Owned(Arc<Vec<f32>>),
}

/// A mapped file from a byte on.
#[derive(Clone)]
struct FilePart {
    file: Arc<Mmap>,
    start: usize,
    /// Of the network that the file belongs to.
    copies: TrainingCopies,
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
    ///
    /// - `copies`: of the network
    pub fn mapped(
        file: &Arc<Mmap>,
        start: usize,
        shape: &[usize],
        copies: &TrainingCopies,
    ) -> Option<Self> {
        let len: usize = shape.iter().product();
        let bytes = file.get(start..)?.get(..len * std::mem::size_of::<f32>())?;
        if cfg!(target_endian = "big") || bytemuck::try_cast_slice::<u8, f32>(bytes).is_err() {
            return None;
        }
        let precision = Precision::default();
        let part = FilePart { file: file.clone(), start, copies: copies.clone() };
        let memory = Memory::File(part);
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
            Memory::File(part) => bytemuck::cast_slice(&part.file[self.bytes(part)]),
            Memory::Owned(values) => &values[range],
        }
    }

    /// Where its values lie in the file.
    fn bytes(&self, part: &FilePart) -> Range<usize> {
        let start = part.start + std::mem::size_of::<f32>() * self.start;
        start..start + self.size_bytes()
    }

    /// Where a training keeps copies of it. A weight that the process owns has none: it would be in memory once more.
    pub(crate) fn training_copies(&self) -> Option<&TrainingCopies> {
        match &self.memory {
            Memory::File(part) => Some(&part.copies),
            Memory::Owned(_) => None,
        }
    }

    /// Lets the system take what the process has mapped of it. It is read from the file again where it is used.
    pub(crate) fn leave_memory(&self) {
        if let Memory::File(part) = &self.memory {
            let Range { start, end } = self.bytes(part);
            // SAFETY: the map is shared and only read, so that every page is again what the file has.
            let left = unsafe {
                part.file.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
            };
            // It is advice: without it, the weight stays.
            drop(left);
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

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::{self, File};

    use tempfile::TempDir;

    use super::*;

    /// A weight in a file of its own, `weights` in the folder.
    pub(crate) fn in_a_file(
        values: &[f32],
        shape: &[usize],
        copies: &TrainingCopies,
    ) -> (TempDir, CpuWeight) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        fs::write(&path, bytemuck::cast_slice(values)).unwrap();
        // SAFETY: nothing else has the file.
        let file = Arc::new(unsafe { Mmap::map(&File::open(path).unwrap()) }.unwrap());
        let weight = FrozenWeight::mapped(&file, 0, shape, copies).unwrap();
        let Ok(Backend::Cpu(weight)) = weight.backend() else { panic!("a weight of the CPU") };
        (dir, weight)
    }

    /// What of that file is in this process's memory.
    #[cfg(target_os = "linux")]
    pub(crate) fn resident_kib(dir: &TempDir) -> usize {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let (_, own) = maps.split_once(dir.path().to_str().unwrap()).unwrap();
        let resident = own.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }
}
