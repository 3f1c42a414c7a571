//! Checkpoint files and the names inside them.
//!
//! A component of the diffusers layout keeps its weights in `<stem>.safetensors`, or in several files that
//! `<stem>.safetensors.index.json` lists. They are memory-mapped: a weight is copied once, to the device and the
//! dtype it is used in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
    sync::Mutex,
};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{EngineError, Result};

/// The weight files of one component, such as `unet/`.
pub struct WeightFiles {
    folder: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    taken: Mutex<BTreeSet<String>>,
    device: Device,
    dtype: DType,
}

struct Shard {
    path: PathBuf,
    bytes: Mmap,
}

/// Where one weight lies.
struct Entry {
    shard: usize,
    dtype: DType,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    /// Maps the files of `folder` that are called `stem`; weights are handed out on `device` as `dtype`.
    pub fn open(folder: &Path, stem: &str, device: &Device, dtype: DType) -> Result<Self> {
        let mut files = Self {
            folder: folder.to_owned(),
            shards: Vec::new(),
            entries: BTreeMap::new(),
            taken: Mutex::default(),
            device: device.clone(),
            dtype,
        };
        for path in shard_paths(folder, stem)? {
            files.map(path)?;
        }
        Ok(files)
    }

    /// The root of the names.
    pub fn root(&self) -> Weights<'_> {
        Weights { files: self, prefix: String::new() }
    }

    /// The compute dtype: that of the weights as they are handed out.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Weights that no layer has asked for: parts that this code does not use, or a config that says too little.
    pub fn unexpected(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.entries.keys().filter(|name| !taken.contains(*name)).cloned().collect()
    }

    /// Adds the bytes of all files to a digest.
    pub fn update_digest(&self, digest: &mut Sha256) {
        for shard in &self.shards {
            digest.update((shard.bytes.len() as u64).to_le_bytes());
            digest.update(&shard.bytes);
        }
    }

    fn map(&mut self, path: PathBuf) -> Result<()> {
        let failed =
            |reason: String| EngineError::ModelFile { path: path.display().to_string(), reason };
        let file = File::open(&path).map_err(|error| failed(error.to_string()))?;
        // SAFETY: a model folder is never written while it is in use; every byte is read through bounds that were
        // checked against the length of the map, so that a damaged file gives an error.
        let bytes = unsafe { Mmap::map(&file) }.map_err(|error| failed(error.to_string()))?;

        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| failed(error.to_string()))?;
        let data = 8 + header;
        for (name, info) in metadata.tensors() {
            let Some(dtype) = float_dtype(info.dtype) else {
                continue; // old text encoders store `position_ids` as integers; nothing here reads such a weight
            };
            let (start, end) = info.data_offsets;
            let entry = Entry {
                shard: self.shards.len(),
                dtype,
                shape: info.shape.clone(),
                start: data + start,
                end: data + end,
            };
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(failed(format!("weight `{name}` is in two files")));
            }
        }
        self.shards.push(Shard { path, bytes });
        Ok(())
    }
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

    /// A `(rows, columns)` matrix, which some checkpoints keep as a 1×1 convolution.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Tensor> {
        let entry = self.entry(name)?;
        if entry.shape != [rows, columns] && entry.shape != [rows, columns, 1, 1] {
            return Err(self.wrong_shape(name, &[rows, columns], entry));
        }
        self.load(name, entry, &[rows, columns], self.files.dtype)
    }

    fn load(&self, name: &str, entry: &Entry, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let mut taken = self.files.taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        taken.insert(self.full_name(name));
        drop(taken);

        let shard = &self.files.shards[entry.shard];
        let bytes =
            shard.bytes.get(entry.start..entry.end).ok_or_else(|| EngineError::ModelFile {
                path: shard.path.display().to_string(),
                reason: format!("the file ends within weight `{}`", self.full_name(name)),
            })?;
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
