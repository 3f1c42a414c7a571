//! Checkpoint files and the names inside them.
//!
//! A component of the diffusers layout keeps its weights in `<stem>.safetensors`, or in several files that
//! `<stem>.safetensors.index.json` lists. A weight is read when a layer asks for it, to the device and the dtype it is
//! used in; frozen ones that are stored as the CPU computes are used from the mapped file itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, tensor::Metadata};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    EngineError, Result,
    ops::{self, FrozenWeight, Precision},
};

/// Bytes that one thread reads at a time.
const READ: usize = 4 << 20;

/// The weight files of one component, such as `unet/`.
pub struct WeightFiles {
    folder: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    taken: Mutex<BTreeSet<String>>,
    /// What a weight is read into before it is converted.
    stored: Mutex<Vec<u8>>,
    device: Device,
    dtype: DType,
    precision: Precision,
}

struct Shard {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    /// None where the system does not map it, or nothing is used from it.
    map: Option<Arc<Mmap>>,
}

/// Where one weight lies.
struct Entry {
    shard: usize,
    dtype: DType,
    shape: Vec<usize>,
    start: u64,
    size_bytes: usize,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    /// Opens the files of `folder` that are called `stem`; weights are handed out on `device` as `dtype`.
    pub fn open(folder: &Path, stem: &str, device: &Device, dtype: DType) -> Result<Self> {
        let mut files = Self {
            folder: folder.to_owned(),
            shards: Vec::new(),
            entries: BTreeMap::new(),
            taken: Mutex::default(),
            stored: Mutex::default(),
            device: device.clone(),
            dtype,
            precision: Precision::default(),
        };
        for path in shard_paths(folder, stem)? {
            files.add(path)?;
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

    /// Size of all files.
    pub fn size_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.size_bytes).sum()
    }

    /// Whether the weights are handed out on the CPU.
    pub fn is_on_cpu(&self) -> bool {
        self.device.is_cpu()
    }

    /// Weights that no layer has asked for: parts that this code does not use, or a config that says too little.
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
        let mut buffer = vec![0; 1 << 20];
        for shard in &self.shards {
            digest.update(shard.size_bytes.to_le_bytes());
            let failed = |error: std::io::Error| shard.failed(error.to_string());
            let mut file = File::open(&shard.path).map_err(failed)?;
            loop {
                match file.read(&mut buffer).map_err(failed)? {
                    0 => break,
                    count => digest.update(&buffer[..count]),
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let failed =
            |reason: String| EngineError::ModelFile { path: path.display().to_string(), reason };
        let wrong = |error: std::io::Error| failed(error.to_string());
        let file = File::open(&path).map_err(wrong)?;
        let size_bytes = file.metadata().map_err(wrong)?.len();
        // Eight bytes of length, the header, then the weights.
        if size_bytes < 8 {
            return Err(failed(format!("{size_bytes} bytes are no safetensors file")));
        }
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0).map_err(wrong)?;
        let data = u64::from_le_bytes(length).saturating_add(8);
        if data > size_bytes {
            return Err(failed("the header is longer than the file".into()));
        }
        let mut header = vec![0; data as usize];
        file.read_exact_at(&mut header, 0).map_err(wrong)?;
        let metadata: Metadata =
            serde_json::from_slice(&header[8..]).map_err(|error| failed(error.to_string()))?;
        for (name, info) in metadata.tensors() {
            let Some(dtype) = float_dtype(info.dtype) else {
                continue; // old text encoders store `position_ids` as integers; nothing here reads such a weight
            };
            let (start, end) = info.data_offsets;
            let elements: usize = info.shape.iter().product();
            if end.checked_sub(start) != Some(elements * dtype.size_in_bytes()) {
                return Err(failed(format!("weight `{name}` has not the size of its shape")));
            }
            if data + end as u64 > size_bytes {
                return Err(failed(format!("the file ends within weight `{name}`")));
            }
            let entry = Entry {
                shard: self.shards.len(),
                dtype,
                shape: info.shape.clone(),
                start: data + start as u64,
                size_bytes: end - start,
            };
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(failed(format!("weight `{name}` is in two files")));
            }
        }
        let used_as_stored = self.device.is_cpu() && self.dtype == DType::F32;
        // SAFETY: a model's files do not change while it is served, as README asks.
        let map = used_as_stored.then(|| unsafe { Mmap::map(&file) }.ok()).flatten();
        let shard = Shard { path, file, size_bytes, map: map.map(Arc::new) };
        shard.read_ahead();
        self.shards.push(shard);
        Ok(())
    }
}

impl Shard {
    /// Asks the system, in the background, for the whole file: while layers take and pack their weights one by one, a disk
    /// would wait more than it reads. Without it loading is slower, nothing else.
    fn read_ahead(&self) {
        /// Bytes that are asked for at a time; the system cuts what goes far beyond its own read-ahead.
        #[cfg(target_os = "linux")]
        const STEP: usize = 1 << 20;
        #[cfg(target_os = "linux")]
        if let Ok(file) = self.file.try_clone() {
            use std::os::fd::AsRawFd;

            let size_bytes = self.size_bytes;
            std::thread::spawn(move || {
                for start in (0..size_bytes as i64).step_by(STEP) {
                    let advice = libc::POSIX_FADV_WILLNEED;
                    // SAFETY: a hint about a file that is open.
                    unsafe { libc::posix_fadvise(file.as_raw_fd(), start, STEP as i64, advice) };
                }
            });
        }
    }

    /// Fills `bytes` with what lies from `start` on, in parts at a time.
    fn read(&self, bytes: &mut [u8], start: u64) -> std::io::Result<()> {
        let parts = bytes.par_chunks_mut(READ).enumerate();
        parts.try_for_each(|(i, part)| self.file.read_exact_at(part, start + (i * READ) as u64))
    }

    fn failed(&self, reason: String) -> EngineError {
        EngineError::ModelFile { path: self.path.display().to_string(), reason }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn float_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F32 => Some(DType::F32),
        Dtype::F64 => Some(DType::F64),
        _ => None,
    }
}

/// One file, or the files of the index; of a folder that has only the half-precision variant, that one.
fn shard_paths(folder: &Path, stem: &str) -> Result<Vec<PathBuf>> {
    for variant in ["", ".fp16"] {
        let single = folder.join(format!("{stem}{variant}.safetensors"));
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = folder.join(format!("{stem}.safetensors.index{variant}.json"));
        if index.is_file() {
            let index: ShardIndex = read_json(&index)?;
            let names: BTreeSet<String> = index.weight_map.into_values().collect();
            return Ok(names.into_iter().map(|name| folder.join(name)).collect());
        }
    }
    let path = folder.join(format!("{stem}.safetensors")).display().to_string();
    Err(EngineError::ModelFile { path, reason: "there is no such file".into() })
}

/// Reads a JSON file of the model folder.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let failed =
        |reason: String| EngineError::ModelFile { path: path.display().to_string(), reason };
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
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
            && let Some(weight) = FrozenWeight::mapped(file, entry.start as usize, shape)
        {
            lock(&self.files.taken).insert(self.full_name(name));
            return Ok(weight);
        }
        Ok(self.load(name, entry, shape, self.files.dtype)?.into())
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
        self.files.entries.get(&name).ok_or_else(|| EngineError::WeightMissing {
            name,
            file: self.files.folder.display().to_string(),
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
