//! Images and texts as vectors that can be compared.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::{
    config::{ClipConfig, EndToken},
    image_processor::ClipImageProcessor,
    text_encoder::ClipTextEncoder,
    tokenizer::{ClipTokenizer, TokenIds},
    vision_encoder::ClipVisionEncoder,
};
use crate::engine::{
    base_model::digest,
    error::{EngineError, Result},
    layers::linear_without_bias,
    ops::{self, FrozenLinear},
    split::Split,
    weights::WeightFiles,
};

/// Images or texts that are computed at a time, which bounds the memory of many.
const BATCH: usize = 32;

/// A CLIP model: maps images and texts into one space, where the cosine of two vectors says how well they agree.
///
/// `f(image) = W_v · vision(image)` and `f(text) = W_t · text(ids)[end]`, each divided by its length; `end` is the
/// position of the end token. The vectors are f32 on every device, so that figures agree with a reference's.
/// An image's or a text's vector has the same bytes alone and among others, at any number of threads.
///
/// | weight                      | shape                                 |
/// |-----------------------------|---------------------------------------|
/// | `vision_model.*`            | see [`ClipVisionEncoder`]             |
/// | `visual_projection.weight`  | `(projection_dim, vision hidden_size)` |
/// | `text_model.*`              | see [`ClipTextEncoder`]               |
/// | `text_projection.weight`    | `(projection_dim, text hidden_size)`  |
/// | `logit_scale`               | one number, a natural logarithm       |
pub struct Clip {
    /// SHA-256 in hex over configs, vocabulary and weights: what figures depend on.
    pub digest: String,
    /// Weights of the folder that no layer has asked for.
    pub unexpected_weights: Vec<String>,
    /// Whether the folder says how images are prepared. Otherwise it is done as OpenAI does, at the model's size.
    pub has_image_settings: bool,
    tokenizer: ClipTokenizer,
    end_token: EndToken,
    text_encoder: ClipTextEncoder,
    text_projection: FrozenLinear,
    image_processor: ClipImageProcessor,
    vision_encoder: ClipVisionEncoder,
    visual_projection: FrozenLinear,
    projection_dim: usize,
    logit_scale: f64,
    device: Device,
}

impl Clip {
    /// Reads config, tokenizer and the heads of the weight files of a folder that [`Self::load`] would load.
    pub fn check_folder(dir: &Path) -> Result<()> {
        ClipConfig::read(&dir.join("config.json"))?;
        ClipTokenizer::load(dir)?;
        WeightFiles::open(dir, "model", &Device::Cpu, DType::F32).map(drop)
    }

    /// Loads a folder of the transformers layout.
    ///
    /// | file                        | what is read                                                     |
    /// |-----------------------------|------------------------------------------------------------------|
    /// | `config.json`               | architecture, end token                                          |
    /// | `model.safetensors`         | weights in f32, f16 or bf16, in one file or in several           |
    /// | `preprocessor_config.json`  | how images are resized; without it as OpenAI does, at the model's size |
    /// | those of [`ClipTokenizer`]  | vocabulary, special tokens                                       |
    ///
    /// # Errors
    /// [`EngineError::ModelFile`], [`EngineError::WeightMissing`] and [`EngineError::WeightShape`].
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let path = dir.join("config.json");
        let config = ClipConfig::read(&path)?;
        let refused =
            |reason: String| EngineError::ModelFile { path: path.display().to_string(), reason };
        let tokenizer = ClipTokenizer::load(dir)?.with_limit(config.text.max_position_embeddings);
        let end_token = config.end_token(tokenizer.eos_id()).map_err(refused)?;
        let (vocabulary, rows) = (tokenizer.vocab_size(), config.text.vocab_size);
        if vocabulary > rows {
            return Err(refused(format!(
                "the vocabulary has {vocabulary} entries, the embedding table {rows} rows"
            )));
        }
        let settings = dir.join("preprocessor_config.json");
        let image_processor = ClipImageProcessor::load(&settings, config.vision.image_size)?;

        let files = WeightFiles::open(dir, "model", device, DType::F32)?;
        let (root, split) = (files.root(), Split::of(&files));
        let projection = |name: &str, hidden_size: usize| {
            linear_without_bias(&root.at(name), config.projection_dim, hidden_size)
        };
        let text_projection = projection("text_projection", config.text.hidden_size)?;
        let visual_projection = projection("visual_projection", config.vision.hidden_size)?;
        let logit_scale: f32 = root.get("logit_scale", &[])?.to_scalar()?;
        let mut clip = Self {
            digest: digest(dir, &DIGESTED, &[&files])?,
            unexpected_weights: Vec::new(),
            has_image_settings: settings.is_file(),
            tokenizer,
            end_token,
            text_encoder: ClipTextEncoder::new(config.text, &root.at("text_model"), split)?,
            text_projection,
            image_processor,
            vision_encoder: ClipVisionEncoder::new(config.vision, &root.at("vision_model"), split)?,
            visual_projection,
            projection_dim: config.projection_dim,
            logit_scale: f64::from(logit_scale).exp(),
            device: device.clone(),
        };
        clip.unexpected_weights = files.unexpected();
        Ok(clip)
    }

    /// The vectors of images of any size.
    ///
    /// - returns `(images, projection_dim)`, each row of length 1, in f32 on the CPU
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for an image that the folder's settings do not bring to the model's size.
    pub fn image_features(&self, images: &[RgbImage]) -> Result<Tensor> {
        let mut features = Vec::with_capacity(images.len());
        for batch in images.chunks(BATCH) {
            let pixel_values = self.image_processor.preprocess(batch)?.to_device(&self.device)?;
            let pooled = self.vision_encoder.forward(&pixel_values)?; // (batch, hidden_size)
            let projected = self.visual_projection.forward(&pooled.into())?.into_tensor();
            features.extend(unit_rows(&projected)?);
        }
        self.matrix(features)
    }

    /// The vectors of texts.
    ///
    /// A text that is too long loses its end, but keeps the end token; [`Self::tokenize`] tells which ones do.
    ///
    /// - returns `(texts, projection_dim)`, each row of length 1, in f32 on the CPU
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a text that cannot be tokenized.
    pub fn text_features(&self, texts: &[&str]) -> Result<Tensor> {
        let ids = texts.iter().map(|text| self.ids_up_to_end(text)).collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|text| ids[*text].len());
        let mut features = vec![Vec::new(); ids.len()];
        let of_one_length = order.chunk_by(|a, b| ids[*a].len() == ids[*b].len());
        for batch in of_one_length.flat_map(|texts| texts.chunks(BATCH)) {
            let ids: Vec<Vec<u32>> = batch.iter().map(|text| ids[*text].clone()).collect();
            let hidden_states = self.text_encoder.forward(&ids, None)?; // (batch, tokens, hidden_size)
            let end = hidden_states.dim(1)? - 1;
            let pooled = hidden_states.narrow(1, end, 1)?.squeeze(1)?; // (batch, hidden_size)
            let projected = self.text_projection.forward(&pooled.into())?.into_tensor();
            for (text, vector) in batch.iter().zip(unit_rows(&projected)?) {
                features[*text] = vector;
            }
        }
        self.matrix(features)
    }

    /// `exp(logit_scale) · I Tᵀ`, the logits that the model was trained with.
    ///
    /// - `image_features`: `(images, projection_dim)`
    /// - `text_features`: `(texts, projection_dim)`
    /// - returns `(images, texts)`
    pub fn logits_per_image(
        &self,
        image_features: &Tensor,
        text_features: &Tensor,
    ) -> Result<Tensor> {
        let cosines = ops::matmul(image_features, &text_features.t()?)?;
        Ok((cosines * self.logit_scale)?)
    }

    /// Token ids of a text, cut and padded to [`Self::max_length`]; `length` says how many there would be uncut.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a text that cannot be tokenized.
    pub fn tokenize(&self, text: &str) -> Result<TokenIds> {
        self.tokenizer.encode(text, &[])
    }

    /// Refuses an image of this size if the folder's settings do not bring it to the model's.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`], which names both sizes.
    pub fn check_image(&self, width: u32, height: u32) -> Result<()> {
        self.image_processor.check_image(width, height)
    }

    /// Tokens of a text with its begin and end marks and its padding.
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// Width of the vectors.
    pub fn projection_dim(&self) -> usize {
        self.projection_dim
    }

    /// Pixels per side of the images as the vision tower sees them.
    pub fn image_size(&self) -> usize {
        self.vision_encoder.config().image_size
    }

    /// A text's tokens as far as its features depend on them: none attends to a later one, and what comes after the end
    /// token is padding.
    fn ids_up_to_end(&self, text: &str) -> Result<Vec<u32>> {
        let TokenIds { mut ids, length } = self.tokenize(text)?;
        ids.truncate(length); // padding is never the end, whatever its id
        let end = self
            .end_token
            .position(&ids)
            .ok_or_else(|| EngineError::InvalidInput(format!("text `{text}` has no end token")))?;
        ids.truncate(end + 1);
        Ok(ids)
    }

    fn matrix(&self, rows: Vec<Vec<f32>>) -> Result<Tensor> {
        let shape = (rows.len(), self.projection_dim);
        Ok(Tensor::from_vec(rows.concat(), shape, &Device::Cpu)?)
    }
}

/// Files whose bytes the vectors depend on, beside the weights.
const DIGESTED: [&str; 7] = [
    "config.json",
    "preprocessor_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// Each row divided by its length.
fn unit_rows(features: &Tensor) -> Result<Vec<Vec<f32>>> {
    let mut rows: Vec<Vec<f32>> = features.to_device(&Device::Cpu)?.to_vec2()?;
    for row in &mut rows {
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if !length.is_normal() {
            let message = format!("CLIP's features have no direction: their length is {length}");
            return Err(candle_core::Error::Msg(message).into());
        }
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    Ok(rows)
}
