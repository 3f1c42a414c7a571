//! Regularization of a training, in its request and in its body.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::regularization::RegularizationChoice;
use crate::domain::digest::Digest;
use crate::domain::image_set::{Generation, ImageSetRef};
use crate::domain::regularization::{
    Generated, Regularization, RegularizationSource, Retrieved, Selection,
};
use crate::domain::sample::SchedulerName;

/// Which class images a training uses, so that the class noun stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegularizationForm {
    source: RegularizationSource,
    /// Id or digest of an image set, for `set` and `retrieved`. Defaults to the base model's class images.
    set: Option<String>,
    /// Which images of the set are candidates, for `set`. Defaults to `all` for a set that is named, and to `class_noun` for the
    /// base model's class images.
    #[schema(value_type = Option<Selection>)]
    select: Option<Selection>,
    /// The class prompt, for `retrieved` and `generated`; `{}` stands for the class noun. Defaults to `photo of a {}`.
    prompt: Option<String>,
    /// The least similarity of captions to the class prompt, for `retrieved`, from −1 to 1. Defaults to the evaluator's own
    /// threshold, at most the paper's 0.85; see `POST /v1/image-sets/{set}/retrieve`.
    #[schema(minimum = -1, maximum = 1)]
    threshold: Option<f64>,
    /// The maximum number of class images per concept, and the number that is generated, which is at most 1000. The same number as
    /// `recipe.num_class_images`, which is the default.
    #[schema(minimum = 1, maximum = 100000)]
    max_images: Option<usize>,
    /// The number of denoising steps, for `generated`. Defaults to that of samples, as do the next two.
    #[schema(minimum = 1)]
    num_inference_steps: Option<usize>,
    /// The guidance scale, for `generated`.
    guidance_scale: Option<f64>,
    /// The scheduler, for `generated`.
    #[schema(value_type = Option<SchedulerName>)]
    scheduler: Option<SchedulerName>,
    /// The seed, for `generated`. Defaults to 0. A set is generated once: the next training with the same class prompt, number and
    /// settings uses it again.
    #[schema(maximum = 9007199254740991_u64)]
    seed: Option<u64>,
}

impl From<RegularizationForm> for RegularizationChoice {
    fn from(form: RegularizationForm) -> Self {
        Self {
            source: form.source,
            set: form.set,
            select: form.select,
            prompt: form.prompt,
            threshold: form.threshold,
            max_images: form.max_images,
            num_inference_steps: form.num_inference_steps,
            guidance_scale: form.guidance_scale,
            scheduler: form.scheduler,
            seed: form.seed,
        }
    }
}

/// Which class images a training uses, resolved.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RegularizationBody {
    source: RegularizationSource,
    /// The set that the images come from. Null for other sources, for generated sets (see `concepts`), and in old trainings.
    set: Option<SetReference>,
    /// Which images of the set are candidates. Source `set` only.
    select: Option<Selection>,
    /// The least similarity. Source `retrieved` only.
    threshold: Option<f64>,
    /// The digest of the CLIP model that compared captions. Source `retrieved` only.
    evaluator: Option<Digest>,
    /// What each concept gets, in the order of the concepts. Sources `retrieved` and `generated` only.
    concepts: Vec<ConceptRegularization>,
}

/// An image set by its content.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SetReference {
    digest: Digest,
    /// The number of images.
    image_count: usize,
}

/// The class images of one concept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConceptRegularization {
    /// The class prompt.
    prompt: String,
    /// The number of class images.
    image_count: usize,
    /// The similarities of the first and the last image that were retrieved.
    similarities: Option<[f64; 2]>,
    /// How the images are generated.
    generation: Option<Generation>,
    /// The generated set; null until it has been generated.
    set: Option<SetReference>,
}

impl From<ImageSetRef> for SetReference {
    fn from(set: ImageSetRef) -> Self {
        Self { digest: set.digest, image_count: set.count }
    }
}

impl From<Retrieved> for ConceptRegularization {
    fn from(retrieved: Retrieved) -> Self {
        let ends = retrieved.images.first().zip(retrieved.images.last());
        Self {
            prompt: retrieved.prompt,
            image_count: retrieved.images.len(),
            similarities: ends.map(|(first, last)| [first.similarity, last.similarity]),
            generation: None,
            set: None,
        }
    }
}

impl From<Generated> for ConceptRegularization {
    fn from(generated: Generated) -> Self {
        Self {
            prompt: generated.generation.prompt.clone(),
            image_count: generated.generation.num_images,
            similarities: None,
            generation: Some(generated.generation),
            set: generated.set.map(SetReference::from),
        }
    }
}

impl From<Regularization> for RegularizationBody {
    fn from(regularization: Regularization) -> Self {
        let source = regularization.source();
        let empty = Self {
            source,
            set: None,
            select: None,
            threshold: None,
            evaluator: None,
            concepts: Vec::new(),
        };
        match regularization {
            Regularization::None => empty,
            Regularization::Set { set, select } => {
                Self { set: set.map(SetReference::from), select: Some(select), ..empty }
            }
            Regularization::Retrieved { set, evaluator, threshold, concepts } => Self {
                set: Some(set.into()),
                threshold: Some(threshold),
                evaluator: Some(evaluator),
                concepts: concepts.into_iter().map(ConceptRegularization::from).collect(),
                ..empty
            },
            Regularization::Generated { concepts } => Self {
                concepts: concepts.into_iter().map(ConceptRegularization::from).collect(),
                ..empty
            },
        }
    }
}
