//! Regularization statistics: what all merges over one base model and one set of captions share, as a value and as a file.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::closed_form::{Regularization, SolvedRows};
use crate::engine::base_model::BaseModel;
use crate::engine::custom_diffusion::file::{Reader, Writer};
use crate::engine::error::{EngineError, Result};
use crate::engine::ops;

/// What the file is called in messages.
const WHAT: &str = "a file of regularization statistics";
/// Files are stored under this name: it stays as it was.
const FORMAT: &str = "vstar-merge-base-1";
/// Of this many captions, one is held out to measure drift on.
const HELD_OUT: usize = 10;

/// Captions of a base model, reduced to what merges need of them: the paper's regularization term.
pub struct RegularizationStatistics {
    /// [`captions_digest`] of the captions.
    pub captions_digest: String,
    pub base_digest: String,
    pub(super) regularization: Regularization,
    /// `Hᵀ H` over features `H` of captions that the regularization has not seen, `(text_dim, text_dim)`, f64.
    pub(super) held_out: Tensor,
    /// `‖H W₀ᵀ‖²`, over all matrices.
    pub(super) held_out_scale: f64,
    /// The prompt of unconditional guidance: its features, and with them the start token's.
    pub(super) empty: SolvedRows,
}

/// SHA-256 in hex over captions: it names the statistics of a base model.
pub fn captions_digest(captions: &[String]) -> String {
    let mut digest = Sha256::new();
    for caption in captions {
        digest.update((caption.len() as u64).to_le_bytes());
        digest.update(caption);
    }
    data_encoding::HEXLOWER.encode(&digest.finalize())
}

impl RegularizationStatistics {
    /// Encodes `captions`, ordinary prompts of what the base model knows; some are held out.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if they are too few, or too much alike to span the text space.
    pub fn new(base: &BaseModel, captions: &[String]) -> Result<Self> {
        let (mut seen, mut held_out) = (Vec::new(), Vec::new());
        for (index, caption) in captions.iter().enumerate() {
            let ids = base.prompt_encoder.tokenize(caption, &[])?.ids;
            if index % HELD_OUT == HELD_OUT - 1 { held_out.push(ids) } else { seen.push(ids) }
        }
        if held_out.is_empty() {
            let text = format!(
                "a merge needs at least {HELD_OUT} regularization captions, got {}",
                captions.len()
            );
            return Err(EngineError::InvalidInput(text));
        }
        let held_out = caption_rows(base, &held_out)?;
        let mut held_out_scale = 0.0;
        for layer in base.unet.cross_attention() {
            for weight in [&layer.to_k, &layer.to_v] {
                let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                held_out_scale += square_sum(&ops::matmul(&held_out, &weight.t()?)?)?;
            }
        }
        let held_out = held_out.to_dtype(DType::F64)?;
        let regularization = Regularization::new(&caption_rows(base, &seen)?)?;
        let empty = base.prompt_encoder.tokenize("", &[])?.ids;
        let empty = base.prompt_encoder.encode(&[empty], None)?.squeeze(0)?;
        Ok(Self {
            captions_digest: captions_digest(captions),
            base_digest: base.digest.clone(),
            held_out: held_out.t()?.matmul(&held_out)?,
            held_out_scale,
            empty: SolvedRows::new(&regularization, &empty)?,
            regularization,
        })
    }

    /// From parts that are not of a base model's folder, for measurements.
    ///
    /// - `captions`, `empty`: features, `(rows, text_dim)`
    pub fn of_features(captions: &Tensor, empty: &Tensor) -> Result<Self> {
        let regularization = Regularization::new(captions)?;
        let captions = captions.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        Ok(Self {
            captions_digest: String::new(),
            base_digest: String::new(),
            held_out: captions.t()?.matmul(&captions)?,
            held_out_scale: 1.0,
            empty: SolvedRows::new(&regularization, empty)?,
            regularization,
        })
    }

    /// Writes the file; the same statistics give the same bytes.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let metadata = BTreeMap::from([
            ("base_digest".to_owned(), self.base_digest.clone()),
            ("captions_digest".to_owned(), self.captions_digest.clone()),
            ("held_out_scale".to_owned(), self.held_out_scale.to_string()),
        ]);
        let mut file = Writer::new(WHAT, FORMAT, metadata);
        file.f64("factor", &self.regularization.factor()?)?;
        file.f64("held_out", &self.held_out)?;
        file.f64("empty", &self.empty.features)?;
        file.finish()
    }

    /// Reads a file that [`Self::to_safetensors`] wrote.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for anything else.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let mut file = Reader::open(WHAT, FORMAT, bytes)?;
        let scale = file.take_metadata("held_out_scale")?;
        let held_out_scale = scale
            .parse()
            .map_err(|_| file.invalid(&format_args!("held_out_scale is `{scale}`")))?;
        let regularization = Regularization::from_factor(&file.take_tensor("factor")?)?;
        Ok(Self {
            captions_digest: file.take_metadata("captions_digest")?,
            base_digest: file.take_metadata("base_digest")?,
            held_out: file.take_tensor("held_out")?.to_dtype(DType::F64)?,
            held_out_scale,
            empty: SolvedRows::new(&regularization, &file.take_tensor("empty")?)?,
            regularization,
        })
    }
}

/// The features of captions at all positions but the start token's, `(rows, text_dim)`, f32 on the CPU.
fn caption_rows(base: &BaseModel, captions: &[Vec<u32>]) -> Result<Tensor> {
    let mut rows = Vec::new();
    for chunk in captions.chunks(32) {
        let features = base
            .prompt_encoder
            .encode(chunk, None)?
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?;
        let (_, tokens, _) = features.dims3()?;
        rows.push(features.narrow(1, 1, tokens - 1)?.contiguous()?.flatten(0, 1)?);
    }
    Ok(Tensor::cat(&rows, 0)?)
}

fn square_sum(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?)
}
