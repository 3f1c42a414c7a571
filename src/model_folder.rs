//! A base model's folder as the service knows it: digest, limits, defaults and class images, without weights.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::class_images::{ClassImageSet, PublishError};
use crate::domain::base_model::BaseModelProfile;
use crate::domain::digest::Digest;
use crate::domain::model_info::ModelInfo;
use crate::engine::captions_digest;
use crate::engine::clip::ClipTokenizer;
use crate::engine::schedulers::{check_steps, limits};
use crate::engine::weights::read_json;
use crate::engine::{BaseModelConfig, folder_digest};
use crate::engine::{EngineError, Result};
use crate::storage::Storage;

/// A folder of the diffusers layout, read as far as an API needs it.
///
/// Its own `vstar.json`, where there is one, has the default recipe, sampling defaults and class images.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    pub dir: PathBuf,
    pub info: Arc<ModelInfo>,
    pub class_images: Arc<ClassImageSet>,
}

impl ModelFolder {
    /// Reads configs, tokenizer and class images, and computes the digest over all files.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::with_digest(dir, folder_digest(dir)?.into())
    }

    /// The same where the digest is known, which takes by far the most time.
    pub(crate) fn with_digest(dir: &Path, digest: Digest) -> Result<Self> {
        let profile_path = dir.join("vstar.json");
        let profile: BaseModelProfile = match profile_path.is_file() {
            true => read_json(&profile_path)?,
            false => BaseModelProfile::default(),
        };
        let class_images = class_images(dir, profile.class_images.as_deref())?;
        let config = BaseModelConfig::read(dir)?;
        let tokenizer = Arc::new(ClipTokenizer::load(&dir.join("tokenizer"))?);
        let vocabulary = tokenizer.clone();
        let name = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
        let class_image_set = class_images.reference().map_err(|error| failed(dir, &error))?;
        let info = ModelInfo {
            name,
            digest,
            size_multiple: config.factor,
            native_size: config.resolution,
            max_prompt_tokens: tokenizer.max_length(),
            num_train_timesteps: config.scheduler.num_train_timesteps,
            schedulers: limits(&config.scheduler),
            recipe: profile.training,
            sampling: profile.sampling,
            has_class_images: !class_images.is_empty(),
            class_image_set,
            count_tokens: Box::new(move |text, added| {
                // A text that cannot be encoded at all is too long for any model.
                tokenizer.encode(text, added).map_or(usize::MAX, |tokens| tokens.length)
            }),
            check_steps: check_steps(&config.scheduler),
            has_token: Box::new(move |token| vocabulary.has_token(token)),
            training_memory: Box::new(move |recipe| config.least_training_memory(recipe)),
        };
        let (info, class_images) = (Arc::new(info), Arc::new(class_images));
        Ok(Self { dir: dir.to_owned(), info, class_images })
    }

    /// SHA-256 in hex over the captions that merges preserve unless a request gives others; `None` if there are none.
    pub fn captions_digest(&self) -> Option<String> {
        (!self.class_images.is_empty()).then(|| captions_digest(&self.class_images.captions()))
    }

    /// Puts the class images where trainings look for them, unless they are there.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn publish_class_images(&self, storage: &Storage) -> Result<(), PublishError> {
        match &self.info.class_image_set {
            Some(reference) => self.class_images.publish(storage, reference).await,
            None => Ok(()),
        }
    }
}

fn class_images(dir: &Path, name: Option<&str>) -> Result<ClassImageSet> {
    let Some(name) = name else { return Ok(ClassImageSet::default()) };
    let path = dir.join(name);
    ClassImageSet::open(&path).map_err(|error| failed(&path, &error))
}

fn failed(path: &Path, error: &io::Error) -> EngineError {
    EngineError::ModelFile { path: path.display().to_string(), reason: error.to_string() }
}
