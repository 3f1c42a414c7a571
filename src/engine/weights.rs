//! Checkpoint files and the names inside them.
//!
//! A component of the diffusers layout keeps its weights in `<stem>.safetensors`, or in several files that
//! `<stem>.safetensors.index.json` lists. A weight is read when a layer asks for it, to the device and the dtype it is
//! used in; frozen ones that are stored as the CPU computes are used from the mapped file itself (ADR 0005).

mod json;
mod shard;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use sha2::{Digest, Sha256};

use self::shard::{Entry, Shard, shard_paths};
use super::{
    error::{EngineError, Result},
    ops::{self, FrozenWeight, Precision, TrainingCopies},
};

pub use self::json::read_json;
pub(crate) use self::json::{from_json, square};

/// The weight files of one component, such as `unet/`.
pub struct WeightFiles {
    folder: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    /// Weights whose numbers are of a kind that is not read here.
    other_dtypes: BTreeMap<String, Dtype>,
    taken: Mutex<BTreeSet<String>>,
    /// What a weight is read into before it is converted.
    stored: Mutex<Vec<u8>>,
    device: Device,
    dtype: DType,
    precision: Precision,
    copies: TrainingCopies,
}

impl WeightFiles {
    /// Opens the files of `folder` that are called `stem`; weights are handed out on `device` as `dtype`.
    pub fn open(folder: &Path, stem: &str, device: &Device, dtype: DType) -> Result<Self> {
        let mut files = Self {
            folder: folder.to_owned(),
            shards: Vec::new(),
            entries: BTreeMap::new(),
            other_dtypes: BTreeMap::new(),
            taken: Mutex::default(),
            stored: Mutex::default(),
            device: device.clone(),
            dtype,
            precision: Precision::default(),
            copies: TrainingCopies::default(),
        };
        let used_as_stored = device.is_cpu() && dtype == DType::F32;
        for path in shard_paths(folder, stem)? {
            let (shard, entries) =
                Shard::open(path, files.shards.len(), used_as_stored, &mut files.other_dtypes)?;
            for (name, entry) in entries {
                if files.entries.insert(name.clone(), entry).is_some() {
                    return Err(shard.failed(format!("weight `{name}` is in two files")));
                }
            }
            files.shards.push(shard);
        }
        Ok(files)
    }

    /// Chooses how the layers that take these weights compute.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The root of the names.
    pub fn root(&self) -> Weights<'_> {
        Weights { files: self, prefix: String::new() }
    }

    /// The compute dtype: that of the weights as they are handed out.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The copies of weights that a training keeps.
    pub fn training_copies(&self) -> &TrainingCopies {
        &self.copies
    }

    /// Size of all files.
    pub fn size_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.size_bytes).sum()
    }

    /// Whether the weights are handed out on the CPU.
    pub fn is_on_cpu(&self) -> bool {
        self.device.is_cpu()
    }

    /// Weights that no layer uses: parts that are not built here, or that the config does not mention.
    pub fn unexpected(&self) -> Vec<String> {
        let taken = lock(&self.taken);
        self.entries.keys().filter(|name| !taken.contains(*name)).cloned().collect()
    }

    /// The weights whose names end in one of `suffixes`, by name, in the compute dtype.
    pub fn ending_in(&self, suffixes: &[&str]) -> Result<BTreeMap<String, Tensor>> {
        let wanted = |name: &&String| suffixes.iter().any(|suffix| name.ends_with(suffix));
        let root = self.root();
        let read = |name: &String| {
            let entry = root.entry(name)?;
            Ok((name.clone(), root.load(name, entry, &entry.shape, self.dtype)?))
        };
        self.entries.keys().filter(wanted).map(read).collect()
    }

    /// Adds the bytes of all files to a digest.
    pub fn update_digest(&self, digest: &mut Sha256) -> Result<()> {
        for shard in &self.shards {
            digest.update(shard.size_bytes.to_le_bytes());
            shard.update_digest(digest).map_err(|error| shard.failed(error.to_string()))?;
        }
        Ok(())
    }
}

/// The weights below one prefix, such as `down_blocks.0.resnets.1`.
#[derive(Clone)]
pub struct Weights<'a> {
    files: &'a WeightFiles,
    prefix: String,
}

impl Weights<'_> {
    /// The weights one level deeper.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { files: self.files, prefix: self.full_name(name) }
    }

    /// The prefix itself, as in the checkpoint.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where the weights are handed out.
    pub fn device(&self) -> &Device {
        &self.files.device
    }

    /// Whether the checkpoint has the weight.
    pub fn has(&self, name: &str) -> bool {
        self.files.entries.contains_key(&self.full_name(name))
    }

    /// How the layers that take these weights compute.
    pub fn precision(&self) -> Precision {
        self.files.precision
    }

    /// The copies of weights that a training keeps.
    pub fn training_copies(&self) -> &TrainingCopies {
        &self.files.copies
    }

    /// A weight in the compute dtype.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.get_as(name, shape, self.files.dtype)
    }

    /// A weight in a dtype of its own, such as f32 for the time embedding.
    pub fn get_as(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let entry = self.entry(name)?;
        if entry.shape != shape {
            return Err(self.wrong_shape(name, shape, entry));
        }
        self.load(name, entry, shape, dtype)
    }

    /// A weight in the compute dtype that never changes.
    pub fn frozen(&self, name: &str, shape: &[usize]) -> Result<FrozenWeight> {
        let entry = self.entry(name)?;
        if entry.shape != shape {
            return Err(self.wrong_shape(name, shape, entry));
        }
        self.load_frozen(name, entry, shape)
    }

    /// A frozen `(rows, columns)` matrix, which some checkpoints keep as a 1×1 convolution.
    pub fn frozen_matrix(&self, name: &str, rows: usize, columns: usize) -> Result<FrozenWeight> {
        let entry = self.entry(name)?;
        if entry.shape != [rows, columns] && entry.shape != [rows, columns, 1, 1] {
            return Err(self.wrong_shape(name, &[rows, columns], entry));
        }
        self.load_frozen(name, entry, &[rows, columns])
    }

    fn load_frozen(&self, name: &str, entry: &Entry, shape: &[usize]) -> Result<FrozenWeight> {
        if entry.dtype == DType::F32
            && let Some(file) = &self.files.shards[entry.shard].map
            && let Some(weight) =
                FrozenWeight::mapped(file, entry.start as usize, shape, &self.files.copies)
        {
            lock(&self.files.taken).insert(self.full_name(name));
            return Ok(weight.with_precision(self.files.precision));
        }
        let weight = self.load(name, entry, shape, self.files.dtype)?;
        Ok(FrozenWeight::from(weight).with_precision(self.files.precision))
    }

    fn load(&self, name: &str, entry: &Entry, shape: &[usize], dtype: DType) -> Result<Tensor> {
        lock(&self.files.taken).insert(self.full_name(name));
        let shard = &self.files.shards[entry.shard];
        let failed = |error: std::io::Error| {
            shard.failed(format!("weight `{}` cannot be read: {error}", self.full_name(name)))
        };
        if (entry.dtype, dtype) == (DType::F32, DType::F32) && self.files.device.is_cpu() {
            // What is used as it is stored needs no copy of its bytes.
            let mut result = Ok(());
            let values = ops::filled(shape.iter().product(), |values| {
                result = shard.read(bytemuck::cast_slice_mut(values), entry.start);
            });
            result.map_err(failed)?;
            return Ok(Tensor::from_vec(values, shape, &self.files.device)?);
        }
        let mut stored = lock(&self.files.stored);
        if stored.len() < entry.size_bytes {
            stored.resize(entry.size_bytes, 0);
        }
        let bytes = &mut stored[..entry.size_bytes];
        shard.read(bytes, entry.start).map_err(failed)?;
        let stored = Tensor::from_raw_buffer(bytes, entry.dtype, shape, &self.files.device)?;
        Ok(stored.to_dtype(dtype)?)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let name = self.full_name(name);
        if let Some(entry) = self.files.entries.get(&name) {
            return Ok(entry);
        }
        let file = self.files.folder.display().to_string();
        Err(match self.files.other_dtypes.get(&name) {
            Some(dtype) => EngineError::ModelFile {
                path: file,
                reason: format!(
                    "weight `{name}` has numbers of type {dtype}; F16, BF16, F32 and F64 are supported"
                ),
            },
            None => EngineError::WeightMissing { name, file },
        })
    }

    fn wrong_shape(&self, name: &str, expected: &[usize], entry: &Entry) -> EngineError {
        EngineError::WeightShape {
            name: self.full_name(name),
            expected: expected.to_vec(),
            actual: entry.shape.clone(),
        }
    }

    fn full_name(&self, name: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
