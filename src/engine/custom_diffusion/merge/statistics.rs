//! Regularization statistics: what all merges over one base model and one set of captions share.

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
/// The name in stored files, which stays as it was.
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

/// What regularization statistics need of a base model, on the CPU.
pub struct StatisticsBase {
    digest: String,
    /// `to_k` and `to_v` of every layer.
    weights: Vec<Tensor>,
    /// The features of the empty prompt, `(tokens, text_dim)`.
    empty: Tensor,
}

impl StatisticsBase {
    pub fn of(base: &BaseModel) -> Result<Self> {
        let layers = base.unet.cross_attention().iter();
        let weights = layers.flat_map(|layer| [&layer.to_k, &layer.to_v]);
        let empty = base.prompt_encoder.tokenize("", &[])?.ids;
        Ok(Self {
            digest: base.digest.clone(),
            weights: weights
                .map(|weight| weight.to_device(&Device::Cpu))
                .collect::<candle_core::Result<_>>()?,
            empty: base.prompt_encoder.encode(&[empty], None)?.squeeze(0)?,
        })
    }
}

/// The features of some captions for [`RegularizationStatistics::of_captions`]: of each, `(tokens − 1, text_dim)`, f32 on the
/// CPU.
pub fn encode_captions(base: &BaseModel, captions: &[String]) -> Result<Vec<Tensor>> {
    let ids = |caption: &String| Ok(base.prompt_encoder.tokenize(caption, &[])?.ids);
    let ids = captions.iter().map(ids).collect::<Result<Vec<_>>>()?;
    let features = base.prompt_encoder.encode(&ids, None)?;
    let features = features.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let tokens = features.dim(1)?;
    // Not the start token's, which is the same in all.
    let of_one = |index| features.get(index)?.narrow(0, 1, tokens - 1)?.contiguous();
    Ok((0..captions.len()).map(of_one).collect::<candle_core::Result<_>>()?)
}

impl RegularizationStatistics {
    /// Encodes `captions`, ordinary prompts of what the base model knows; some are held out.
    ///
    /// # Errors
    /// As for [`Self::of_captions`].
    pub fn new(base: &BaseModel, captions: &[String]) -> Result<Self> {
        let mut features = Vec::new();
        for some in captions.chunks(32) {
            features.extend(encode_captions(base, some)?);
        }
        Self::of_captions(&StatisticsBase::of(base)?, captions, &features)
    }

    /// Computes them on the CPU from what a device has encoded.
    ///
    /// - `features`: of [`encode_captions`], for all captions
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if the captions are too few, or too much alike to span the text space.
    pub fn of_captions(
        base: &StatisticsBase,
        captions: &[String],
        features: &[Tensor],
    ) -> Result<Self> {
        if captions.len() < HELD_OUT || captions.len() != features.len() {
            let text = format!(
                "a merge needs at least {HELD_OUT} regularization captions, got {}",
                captions.len()
            );
            return Err(EngineError::InvalidInput(text));
        }
        let (mut seen, mut held_out) = (Vec::new(), Vec::new());
        for (index, rows) in features.iter().enumerate() {
            if index % HELD_OUT == HELD_OUT - 1 { held_out.push(rows) } else { seen.push(rows) }
        }
        let held_out = Tensor::cat(&held_out, 0)?;
        let mut held_out_scale = 0.0;
        for weight in &base.weights {
            let weight = weight.to_dtype(DType::F32)?;
            held_out_scale += square_sum(&ops::matmul(&held_out, &weight.t()?)?)?;
        }
        let held_out = held_out.to_dtype(DType::F64)?;
        let regularization = Regularization::new(&Tensor::cat(&seen, 0)?)?;
        Ok(Self {
            captions_digest: captions_digest(captions),
            base_digest: base.digest.clone(),
            held_out: held_out.t()?.matmul(&held_out)?,
            held_out_scale,
            empty: SolvedRows::new(&regularization, &base.empty)?,
            regularization,
        })
    }

    /// Computes them from given features, for measurements.
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

fn square_sum(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?)
}
