//! Weight files: their headers, and their bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::DType;
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, tensor::Metadata};
use serde::Deserialize;

use super::json::read_json;
use crate::domain::git_lfs;
use crate::engine::error::{EngineError, Result};

/// Bytes that one thread reads at a time.
const READ: usize = 4 << 20;

/// A file of weights.
pub(super) struct Shard {
    pub(super) path: PathBuf,
    file: File,
    pub(super) size_bytes: u64,
    /// None where the system does not map it, or nothing is used from it.
    pub(super) map: Option<Arc<Mmap>>,
}

/// Where one weight lies.
pub(super) struct Entry {
    pub(super) shard: usize,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) start: u64,
    pub(super) size_bytes: usize,
}

impl Shard {
    /// Opens a file and reads its header.
    ///
    /// - `number`: of the file among those of its component
    /// - `used_as_stored`: whether weights are used from the mapped file itself
    /// - `other_dtypes`: takes the names of weights whose numbers are not read here
    pub(super) fn open(
        path: PathBuf,
        number: usize,
        used_as_stored: bool,
        other_dtypes: &mut BTreeMap<String, Dtype>,
    ) -> Result<(Self, Vec<(String, Entry)>)> {
        let failed =
            |reason: String| EngineError::ModelFile { path: path.display().to_string(), reason };
        let wrong = |error: std::io::Error| failed(error.to_string());
        let file = File::open(&path).map_err(wrong)?;
        let size_bytes = file.metadata().map_err(wrong)?.len();
        if let Some(reason) = not_safetensors(&file).map_err(wrong)? {
            return Err(failed(reason));
        }
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
        let metadata = read_header(&header[8..]).map_err(failed)?;
        let mut entries = Vec::new();
        for (name, info) in metadata.tensors() {
            let Some(dtype) = float_dtype(info.dtype) else {
                // Old text encoders store `position_ids` as integers; nothing here reads such a weight.
                other_dtypes.insert(name.clone(), info.dtype);
                continue;
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
                shard: number,
                dtype,
                shape: info.shape.clone(),
                start: data + start as u64,
                size_bytes: end - start,
            };
            entries.push((name.clone(), entry));
        }
        // SAFETY: a model's files do not change while it is served, as docs/operating.md asks.
        let map = used_as_stored.then(|| unsafe { Mmap::map(&file) }.ok()).flatten();
        let shard = Shard { path, file, size_bytes, map: map.map(Arc::new) };
        shard.read_ahead();
        Ok((shard, entries))
    }

    /// Asks the system to read the whole file in the background. Otherwise the disk is idle while layers pack their
    /// weights one by one. If this fails, loading is only slower.
    fn read_ahead(&self) {
        /// Bytes that are asked for at a time; the system cuts what goes far beyond its own read-ahead.
        #[cfg(target_os = "linux")]
        const STEP: usize = 1 << 20;
        #[cfg(target_os = "linux")]
        if let Ok(file) = self.file.try_clone() {
            use std::os::fd::AsRawFd;

            let size_bytes = self.size_bytes;
            // Without a thread to spare, it is not asked for.
            let _ = std::thread::Builder::new().spawn(move || {
                for start in (0..size_bytes as i64).step_by(STEP) {
                    let advice = libc::POSIX_FADV_WILLNEED;
                    // SAFETY: a hint about a file that is open.
                    unsafe { libc::posix_fadvise(file.as_raw_fd(), start, STEP as i64, advice) };
                }
            });
        }
    }

    /// Adds the bytes of the whole file to a digest: of the file that is open, whatever has its name now.
    pub(super) fn update_digest(&self, digest: &mut impl sha2::Digest) -> std::io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut start = 0;
        loop {
            match self.file.read_at(&mut buffer, start) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    digest.update(&buffer[..count]);
                    start += count as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Fills `bytes` with what lies from `start` on, in parts at a time.
    pub(super) fn read(&self, bytes: &mut [u8], start: u64) -> std::io::Result<()> {
        let parts = bytes.par_chunks_mut(READ).enumerate();
        parts.try_for_each(|(i, part)| self.file.read_exact_at(part, start + (i * READ) as u64))
    }

    pub(super) fn failed(&self, reason: String) -> EngineError {
        EngineError::ModelFile { path: self.path.display().to_string(), reason }
    }
}

/// One file, or the files of the index; of a folder that has only the half-precision variant, that one.
pub(super) fn shard_paths(folder: &Path, stem: &str) -> Result<Vec<PathBuf>> {
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
    let reason = match other_weights(folder) {
        Some(name) if name.ends_with(".safetensors") => {
            format!("there is no such file; the folder has `{name}`: rename it if it is the one")
        }
        Some(name) => format!(
            "there is no such file; the folder has `{name}`, which is not read here: convert it to safetensors, for example \
             with `save_pretrained(folder, safe_serialization=True)` of diffusers or transformers"
        ),
        None => "there is no such file".to_owned(),
    };
    Err(EngineError::ModelFile { path, reason })
}

/// A file of the folder that has weights in another form or under another name; another form first.
fn other_weights(folder: &Path) -> Option<String> {
    const FORMS: [&str; 8] = ["bin", "pt", "pth", "ckpt", "msgpack", "h5", "onnx", "safetensors"];
    let names = std::fs::read_dir(folder).ok()?.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let extension = Path::new(&name).extension()?.to_str()?;
        let rank = FORMS.iter().position(|form| *form == extension)?;
        Some((rank, name))
    });
    names.min().map(|(_, name)| name)
}

/// What a file is that is something else by its first bytes.
fn not_safetensors(file: &File) -> std::io::Result<Option<String>> {
    let mut beginning = [0; 64];
    let length = file.read_at(&mut beginning, 0)?;
    let beginning = &beginning[..length];
    Ok(if git_lfs::is_pointer(beginning) {
        Some(git_lfs::REMEDY.to_owned())
    } else if beginning.starts_with(b"PK\x03\x04") || beginning.starts_with(b"\x80\x02") {
        Some("this is a PyTorch file, not safetensors: convert it".to_owned())
    } else {
        None
    })
}

/// Reads a header. Its `__metadata__` is not used, so it may be whatever another program has put there.
fn read_header(header: &[u8]) -> std::result::Result<Metadata, String> {
    let text = String::from_utf8_lossy(header);
    let mut header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| format!("its header: {error}"))?;
    header.remove("__metadata__");
    serde_json::from_value(header.into()).map_err(|error| format!("its header: {error}"))
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
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
