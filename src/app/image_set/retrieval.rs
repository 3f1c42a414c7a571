//! Retrieval: the images of a set whose captions are similar to a prompt, as the paper chooses its class images.

use std::time::Duration;

use crate::app::{App, Caller, Dependency, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::modifier_tokens_in;
use crate::domain::digest::Digest;
use crate::domain::image_set::{ImageSet, SetImage};
use crate::domain::invalid::{Checks, FieldError};
use crate::domain::number::decimal;
use crate::domain::regularization::RetrievedImage;
use crate::text_index::{Found, TextIndexError, TextIndexes};

/// The longest that a request waits for an index that is not there yet. Those of small sets are made within it.
const WAIT: Duration = Duration::from_secs(20);

/// After this time, a client is asked to try again.
const RETRY_AFTER: Duration = Duration::from_secs(15);

/// What to look for in a set.
#[derive(Clone, Debug)]
pub struct Retrieve {
    pub prompt: String,
    /// The evaluator's own if `None`.
    pub threshold: Option<f64>,
    pub max_images: usize,
}

/// What a dry run has found.
#[derive(Clone, Debug)]
pub struct Retrieval {
    pub set: ImageSet,
    pub prompt: String,
    /// The digest of the evaluator.
    pub evaluator: Digest,
    pub threshold: f64,
    /// The evaluator's own threshold.
    pub calibrated_threshold: f64,
    /// The number of images above the threshold.
    pub above: usize,
    /// The number of different captions that the evaluator has cut.
    pub truncated_captions: usize,
    pub images: Vec<RetrievedCaption>,
    /// The most similar image, above the threshold or not.
    pub best: Option<RetrievedCaption>,
}

/// An image and how similar its caption is to the prompt.
#[derive(Clone, Debug)]
pub struct RetrievedCaption {
    pub image: SetImage,
    pub similarity: f64,
}

/// What a training retrieves for one prompt.
pub(in crate::app) struct Chosen {
    pub(in crate::app) found: Found,
    pub(in crate::app) truncated_captions: usize,
}

impl App {
    /// Says which images of a set a training would retrieve, and how similar they are. Changes nothing.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Invalid`] without an evaluator or captions, or for a prompt that is too long;
    /// [`Refusal::NotReady`] while the set is compared for the first time.
    pub async fn retrieve(
        &self,
        caller: &Caller,
        set: &str,
        wanted: Retrieve,
    ) -> Result<Retrieval, Refusal> {
        let set = self.image_set(caller, set).await?;
        let Retrieve { prompt, threshold, max_images } = wanted;
        let mut checks = Checks::default();
        checks.in_range(max_images, 1..=1_000, "/max_images");
        check_threshold(threshold, "/threshold", &mut checks);
        let is_plain = modifier_tokens_in(&prompt).is_ok_and(|tokens| tokens.is_empty());
        checks.require(is_plain && !prompt.contains("{}"), "/prompt", Code::InvalidValue, || {
            "captions know no `{}` and no modifier tokens: write the class noun".to_owned()
        });
        checks.finish()?;
        let indexes = self.text_indexes("")?;
        let calibrated_threshold = indexes.threshold().await?;
        let threshold = threshold.map_or(calibrated_threshold, decimal);
        let Chosen { found, truncated_captions } =
            self.choose(&set, &prompt, "/prompt", threshold, max_images).await?;
        Ok(Retrieval {
            evaluator: indexes.evaluator().digest.clone(),
            prompt,
            threshold,
            calibrated_threshold,
            above: found.above,
            truncated_captions,
            images: self.captions_of(&set, &found.images).await?,
            best: self.captions_of(&set, found.best.as_slice()).await?.pop(),
            set,
        })
    }

    /// The images of a set that are similar to a prompt.
    ///
    /// - `pointer`: the field that has the prompt
    pub(in crate::app) async fn choose(
        &self,
        set: &ImageSet,
        prompt: &str,
        pointer: &str,
        threshold: f64,
        max_images: usize,
    ) -> Result<Chosen, Refusal> {
        let indexes = self.text_indexes(pointer)?;
        check_prompt(indexes, prompt, pointer)?;
        if set.caption_count == 0 {
            let detail =
                format!("set `{}` has no captions to compare: use it without retrieval", set.name);
            return Err(FieldError::new(pointer, Code::NotApplicable, detail).into());
        }
        let captions =
            async || Ok::<_, Refusal>(db::image_set::captions(&self.db, set.image_set_id).await?);
        let index = indexes.get(&set.digest, captions, WAIT).await?;
        let text = indexes.encode(prompt).await?;
        let truncated_captions = index.truncated();
        let search = move || index.search(&text, threshold, max_images);
        let found = tokio::task::spawn_blocking(search).await.map_err(Refusal::internal)?;
        Ok(Chosen { found, truncated_captions })
    }

    /// The evaluator's threshold.
    pub(in crate::app) async fn retrieval_threshold(&self, pointer: &str) -> Result<f64, Refusal> {
        Ok(self.text_indexes(pointer)?.threshold().await?)
    }

    /// Begins to compare the captions of a new set before somebody asks for it.
    pub(super) fn index_ahead(&self, set: &ImageSet, captions: Vec<String>) {
        let Some(indexes) = self.text_indexes.clone().filter(|_| set.caption_count > 0) else {
            return;
        };
        let digest = set.digest.clone();
        tokio::spawn(async move {
            let captions = async || Ok::<_, TextIndexError>(captions);
            if let Err(error) = indexes.get(&digest, captions, Duration::MAX).await {
                tracing::warn!(%error, "a new image set was not indexed");
            }
        });
    }

    pub(in crate::app) fn text_indexes(&self, pointer: &str) -> Result<&TextIndexes, Refusal> {
        self.text_indexes.as_ref().ok_or_else(|| {
            let detail = "retrieval compares captions by a CLIP model, and this service has none: start it with --evaluator";
            FieldError::new(pointer, Code::EvaluatorMissing, detail).into()
        })
    }

    async fn captions_of(
        &self,
        set: &ImageSet,
        found: &[RetrievedImage],
    ) -> Result<Vec<RetrievedCaption>, Refusal> {
        let places: Vec<i32> = found.iter().map(|one| one.index as i32).collect();
        let images = db::image_set::images_at(&self.db, set.image_set_id, &places).await?;
        let with_image = |one: &RetrievedImage| {
            let place =
                images.binary_search_by_key(&(one.index as i32), |image| image.index).ok()?;
            Some(RetrievedCaption { image: images[place].clone(), similarity: one.similarity })
        };
        Ok(found.iter().filter_map(with_image).collect())
    }
}

/// Refuses a threshold that is no cosine.
pub(in crate::app) fn check_threshold(threshold: Option<f64>, pointer: &str, checks: &mut Checks) {
    checks.in_range(threshold.unwrap_or_default(), -1.0..=1.0, pointer);
}

/// Refuses a prompt that the evaluator would cut.
fn check_prompt(indexes: &TextIndexes, prompt: &str, pointer: &str) -> Result<(), FieldError> {
    if prompt.trim().is_empty() {
        let detail = "captions are compared with a prompt: write one";
        return Err(FieldError::new(pointer, Code::InvalidValue, detail));
    }
    if prompt.contains('\0') || prompt.len() > 8 * 1024 {
        let detail = "a prompt has at most 8192 bytes, and no character U+0000";
        return Err(FieldError::new(pointer, Code::InvalidValue, detail));
    }
    let limit = indexes.evaluator().max_text_tokens;
    let tokens = indexes.count_tokens(prompt).map_err(|error| {
        FieldError::new(pointer, Code::InvalidValue, format!("the prompt cannot be read: {error}"))
    })?;
    if tokens > limit {
        let detail = format!(
            "{tokens} tokens with begin and end, and the evaluator reads {limit}: shorten the text"
        );
        return Err(FieldError::new(pointer, Code::PromptTooLong, detail));
    }
    Ok(())
}

impl From<TextIndexError> for Refusal {
    fn from(error: TextIndexError) -> Self {
        match error {
            TextIndexError::NotReady { done, total } => {
                Self::NotReady { done, total, retry_after: RETRY_AFTER }
            }
            TextIndexError::Storage(error) => {
                Self::Unavailable { dependency: Dependency::ObjectStore, source: error.into() }
            }
            error @ (TextIndexError::Engine(_) | TextIndexError::Panicked) => Self::internal(error),
        }
    }
}
