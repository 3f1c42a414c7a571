//! The task of a training, as it is queued and kept.

use serde::{Deserialize, Serialize};

use super::{ClassImages, ImageSetRef, Preset, StartFrom, TrainingRecipe};
use crate::domain::concept::{ConceptWords, Handle};
use crate::domain::digest::Digest;
use crate::domain::id::{ConceptId, ImageId};
use crate::domain::promotion::Promote;
use crate::domain::regularization::Regularization;
use crate::domain::storage_key::StorageKey;
use crate::domain::training_preview::PreviewPlan;
use crate::domain::version::TaskVersion;

/// The task to learn these concepts from these photos by this recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredTrainingTask")]
pub struct TrainingTask {
    pub version: TaskVersion,
    /// Refuses a worker that has another base model.
    pub base_digest: Digest,
    pub concepts: Vec<TaskConcept>,
    pub preset: Preset,
    pub recipe: TrainingRecipe,
    pub regularization: Regularization,
    /// What the training goes on from; `None` for the base model.
    pub start_from: Option<StartFrom>,
    pub seed: u64,
    /// Whether the delta becomes the current one of the concepts.
    pub promote: Promote,
    /// What the training draws of itself while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previews: Option<PreviewPlan>,
}

/// A task as any version has written it.
#[derive(Deserialize)]
struct StoredTrainingTask {
    #[serde(default)]
    version: TaskVersion,
    base_digest: Digest,
    concepts: Vec<TaskConcept>,
    preset: Preset,
    recipe: TrainingRecipe,
    regularization: Option<Regularization>,
    /// Before version 3.
    #[serde(default)]
    class_images: ClassImages,
    /// Before version 3; none in tasks from before there were sets.
    class_image_set: Option<ImageSetRef>,
    /// Since version 4.
    #[serde(default)]
    start_from: Option<StartFrom>,
    seed: u64,
    /// Since version 5.
    #[serde(default = "Promote::before_there_was_a_choice")]
    promote: Promote,
    /// In tasks that asked for them.
    #[serde(default)]
    previews: Option<PreviewPlan>,
}

impl From<StoredTrainingTask> for TrainingTask {
    fn from(stored: StoredTrainingTask) -> Self {
        let regularization = stored.regularization.unwrap_or_else(|| {
            Regularization::from_class_images(stored.class_images, stored.class_image_set)
        });
        Self {
            version: stored.version,
            base_digest: stored.base_digest,
            concepts: stored.concepts,
            preset: stored.preset,
            recipe: stored.recipe,
            regularization,
            start_from: stored.start_from,
            seed: stored.seed,
            promote: stored.promote,
            previews: stored.previews,
        }
    }
}

/// A concept as it was when its training was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskConcept {
    pub concept_id: ConceptId,
    pub handle: Handle,
    #[serde(flatten)]
    pub words: ConceptWords,
    pub images: Vec<TaskImage>,
}

/// A photo of a training and where it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskImage {
    pub image_id: ImageId,
    pub storage_key: StorageKey,
    /// The digest of the PNG; older tasks have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// The caption that the photo is trained with, the concept's name included; `None` for the recipe's templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// The photo's subject; `None` if all of it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<TaskMask>,
}

/// The subject mask of a photo and where it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskMask {
    pub storage_key: StorageKey,
    /// The digest of the PNG.
    pub sha256: Digest,
}
