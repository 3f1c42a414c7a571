//! The model that evaluates images: CLIP behind plain numbers, for callers that know no tensors.

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;

use crate::domain::evaluator_info::EvaluatorInfo;
use crate::engine::device::device_named;
use crate::engine::{Clip, Result};

/// A handle to the evaluator. A clone is a handle to the same model.
#[derive(Clone)]
pub struct Evaluator {
    clip: Arc<Clip>,
    info: Arc<EvaluatorInfo>,
}

/// Vectors of images or texts, each of length 1: the cosine of two is their dot product.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    width: usize,
    /// Row by row.
    values: Vec<f32>,
}

impl Evaluator {
    /// Reads as much of a folder as takes a moment.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn check_folder(dir: &Path) -> Result<()> {
        Clip::check_folder(dir)
    }

    /// Loads a folder of the transformers layout onto a device such as `cpu` or `cuda:0`.
    ///
    /// # Errors
    /// [`EngineError`](crate::engine::EngineError), which names the file or the weight.
    pub fn load(dir: &Path, device: &str) -> Result<Self> {
        let clip = Clip::load(dir, &device_named(device)?)?;
        let name = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
        let info = EvaluatorInfo {
            name,
            digest: clip.digest.as_str().into(),
            projection_dim: clip.projection_dim(),
            max_text_tokens: clip.max_length(),
            image_size: clip.image_size(),
            has_image_settings: clip.has_image_settings,
        };
        Ok(Self { clip: Arc::new(clip), info: Arc::new(info) })
    }

    pub fn info(&self) -> &EvaluatorInfo {
        &self.info
    }

    /// Weights of the folder that no layer reads.
    pub fn unread_weights(&self) -> &[String] {
        &self.clip.unexpected_weights
    }

    /// The tokens of a text with its begin and end marks. A text of more than
    /// [`max_text_tokens`](EvaluatorInfo::max_text_tokens) loses what comes before its end mark.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`](crate::engine::EngineError::InvalidInput) for a text that cannot be tokenized.
    pub fn count_tokens(&self, text: &str) -> Result<usize> {
        Ok(self.clip.tokenize(text)?.length)
    }

    /// Refuses an image of this size if the folder's settings do not bring it to the model's.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`](crate::engine::EngineError::InvalidInput)
    pub fn check_image(&self, width: u32, height: u32) -> Result<()> {
        self.clip.check_image(width, height)
    }

    /// The features of texts.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`](crate::engine::EngineError::InvalidInput) for a text that cannot be tokenized.
    pub fn text_features(&self, texts: &[&str]) -> Result<Features> {
        let features = self.clip.text_features(texts)?;
        Ok(Features::new(self.info.projection_dim, features.flatten_all()?.to_vec1()?))
    }

    /// The features of images of any size.
    ///
    /// # Errors
    /// What [`Self::check_image`] refuses.
    pub fn image_features(&self, images: &[RgbImage]) -> Result<Features> {
        let features = self.clip.image_features(images)?;
        Ok(Features::new(self.info.projection_dim, features.flatten_all()?.to_vec1()?))
    }
}

impl std::fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Evaluator").field(&self.info).finish()
    }
}

impl Features {
    /// - `width`: numbers of a row
    /// - `values`: row by row
    pub fn new(width: usize, values: Vec<f32>) -> Self {
        debug_assert!(width > 0 && values.len().is_multiple_of(width));
        Self { width, values }
    }

    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The numbers of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> + Clone {
        self.values.chunks_exact(self.width.max(1))
    }

    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..(index + 1) * self.width]
    }

    /// All rows, one after the other.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}
