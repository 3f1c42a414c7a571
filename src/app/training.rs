//! Trainings: from photos to a delta.

mod check;
mod previews;
mod start_from;

use serde_json::{Map, Value};
use std::collections::HashMap;

pub use self::previews::NewPreviews;

use self::check::{check_captions, check_names, check_photo_captions, check_tokens};
use super::binding::{concept_named, named_concepts};
use super::dry_run::{Dataset, DryRun};
use super::job::Training;
use super::queue::{Asked, JobOptions};
use super::regularization::NewRegularization;
use super::warnings::of_training;
use super::{App, Caller, Refusal, random_seed};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::{ClassNoun, Concept, ConceptRef};
use crate::domain::id::{ConceptId, DeltaId, ImageId, TrainingId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::invalid::{Checks, FieldError, Invalid, all_or_errors};
use crate::domain::job::{JobKind, Metric};
use crate::domain::model_info::ModelInfo;
use crate::domain::photo::{PhotoNotes, training_caption};
use crate::domain::promotion::Promote;
use crate::domain::sample::MAX_SEED;
use crate::domain::training::task::{TaskConcept, TaskImage, TaskMask, TrainingTask};
use crate::domain::training::{MAX_CONCEPTS, MIN_IMAGES, Preset, TrainingRecipe};
use crate::domain::version::TaskVersion;

/// A training to start.
#[derive(Clone, Debug)]
pub struct NewTraining {
    /// Several are learned jointly and share the delta.
    pub concepts: Vec<ConceptRef>,
    pub preset: Preset,
    /// Fields of the recipe that differ from the preset.
    pub recipe: Map<String, Value>,
    pub regularization: NewRegularization,
    /// What to go on from; `None` for the base model.
    pub start_from: Option<DeltaId>,
    /// Random if `None`.
    pub seed: Option<u64>,
    pub promote: Promote,
    /// What to draw meanwhile.
    pub previews: Option<NewPreviews>,
}

impl App {
    /// Queues a training on the photos that its concepts have now.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the recipe makes no sense, a concept does not exist or has too few photos, or there are no class
    /// images as asked for; [`Refusal::NotReady`]; [`Refusal::QueueFull`].
    pub async fn start_training(
        &self,
        caller: &Caller,
        new: NewTraining,
        options: JobOptions,
    ) -> Result<Training, Refusal> {
        options.schedule.check()?;
        let (asked, _) = self.resolve_training(caller, new).await?;
        let mut tx = self.db.begin().await?;
        let id = self.enqueue(&mut tx, caller, asked, &options).await?;
        tx.commit().await?;
        self.announce(JobKind::Training);
        self.queued_job(caller, id).await
    }

    /// Answers what [`Self::start_training`] would queue.
    ///
    /// # Errors
    /// The same, without [`Refusal::QueueFull`].
    pub async fn try_training(
        &self,
        caller: &Caller,
        new: NewTraining,
        options: JobOptions,
    ) -> Result<DryRun<TrainingTask>, Refusal> {
        options.schedule.check()?;
        let (asked, photos) = self.resolve_training(caller, new).await?;
        let dataset = Some(Dataset::new(&asked.task, &photos));
        let mut db = self.db.acquire().await?;
        Ok(DryRun { dataset, ..self.dry_run(&mut db, asked, options.schedule).await? })
    }

    /// What a request asks for, and the photos of its concepts.
    async fn resolve_training(
        &self,
        caller: &Caller,
        new: NewTraining,
    ) -> Result<(Asked<TrainingTask>, Vec<Image>), Refusal> {
        new.check()?;
        let usual = new.preset(&self.model);
        let recipe = new.resolve_recipe(&self.model)?;

        let mut db = self.db.acquire().await?;
        let concepts = named_concepts(&mut db, caller.project_id(), new.concepts.iter()).await?;
        let chosen = choose_concepts(&new.concepts, &concepts)?;
        let ids: Vec<ConceptId> = chosen.iter().map(|concept| concept.concept_id).collect();
        let images = db::image::of_concepts(&mut *db, &ids).await?;
        let mut concepts = with_photos(&chosen, &images, MIN_IMAGES)?;
        let ids: Vec<ImageId> = images.iter().map(|image| image.image_id).collect();
        let notes = db::photo::of_images(&mut *db, caller.project_id(), &ids).await?;
        with_notes(&mut concepts, &notes);
        let start_from = match new.start_from {
            Some(delta_id) => {
                let project_id = caller.project_id();
                let resolved =
                    start_from::resolve(&mut db, project_id, &self.model, delta_id, &chosen);
                Some(resolved.await?)
            }
            None => None,
        };
        drop(db); // to compare a set's captions for the first time takes longer than a connection may be held

        let nouns: Vec<&ClassNoun> =
            chosen.iter().map(|concept| &concept.words.class_noun).collect();
        let regularization =
            self.resolve_regularization(caller, &new.regularization, &recipe, &nouns).await?;
        let mut task = TrainingTask {
            version: TaskVersion::NEWEST,
            base_digest: self.model.digest.clone(),
            concepts,
            preset: new.preset,
            recipe,
            regularization,
            start_from,
            seed: new.seed.unwrap_or_else(random_seed),
            promote: new.promote,
            previews: None,
        };
        check_tokens(&task, &new.recipe, &self.model)?;
        check_captions(&task, &self.model)?;
        check_photo_captions(&task, &self.model)?;
        check_names(&task)?;
        if let Some(previews) = &new.previews {
            task.previews = Some(previews.resolve(&task, &self.model)?);
        }
        let mut warnings = of_training(&task, &new.recipe, &usual);
        warnings.extend(self.photo_warnings(caller, &chosen, &images).await?);
        Ok((Asked { task, warnings }, images))
    }

    /// Returns up to `limit` points of a training's loss curve after a step, in order.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no training of this id.
    pub async fn training_metrics(
        &self,
        caller: &Caller,
        id: TrainingId,
        since_step: i32,
        limit: i64,
    ) -> Result<Vec<Metric>, Refusal> {
        self.standing::<TrainingTask>(caller, id).await?;
        Ok(db::metric::after(&self.db, id.into(), since_step, limit).await?)
    }
}

impl NewTraining {
    /// The preset for this number of concepts.
    fn preset(&self, model: &ModelInfo) -> TrainingRecipe {
        let preset = match self.preset {
            Preset::Default => model.recipe.clone(),
            Preset::Paper => TrainingRecipe::paper(),
        };
        preset.for_concepts(self.concepts.len())
    }

    /// The preset for this number of concepts, with the request's changes.
    fn resolve_recipe(&self, model: &ModelInfo) -> Result<TrainingRecipe, Invalid> {
        let recipe = self.preset(model).with_overrides(&self.recipe)?;
        self.regularization.resolve_recipe(recipe, &self.recipe, model)
    }

    fn check(&self) -> Result<(), Invalid> {
        let mut checks = Checks::default();
        checks.in_range(self.concepts.len(), 1..=MAX_CONCEPTS, "/concepts");
        checks.in_range(self.seed.unwrap_or_default(), 0..=MAX_SEED, "/seed");
        checks.finish()
    }
}

/// The concepts in the order of their names, each once.
fn choose_concepts<'a>(
    names: &[ConceptRef],
    concepts: &'a [Concept],
) -> Result<Vec<&'a Concept>, Invalid> {
    let chosen = names
        .iter()
        .enumerate()
        .map(|(index, name)| concept_named(name, concepts, &format!("/concepts/{index}")));
    let chosen = all_or_errors(chosen)?;
    for (index, concept) in chosen.iter().enumerate() {
        if chosen[..index].iter().any(|other| other.concept_id == concept.concept_id) {
            let pointer = format!("/concepts/{index}");
            let detail = format!("concept `{}` is named twice", concept.handle);
            return Err(FieldError::new(pointer, Code::AmbiguousConcept, detail).into());
        }
    }
    Ok(chosen)
}

/// Gives each concept its photos.
///
/// - `fewest`: how many a concept needs; for a training the paper's four
pub(super) fn with_photos(
    concepts: &[&Concept],
    images: &[Image],
    fewest: usize,
) -> Result<Vec<TaskConcept>, Invalid> {
    let concepts = concepts.iter().enumerate();
    all_or_errors(concepts.map(|(index, concept)| with_its_photos(index, concept, images, fewest)))
}

fn with_its_photos(
    index: usize,
    concept: &Concept,
    images: &[Image],
    fewest: usize,
) -> Result<TaskConcept, FieldError> {
    let is_its = |image: &&Image| matches!(&image.source, ImageSource::Photo { concept_id, .. } if *concept_id == concept.concept_id);
    let images: Vec<TaskImage> = images
        .iter()
        .filter(is_its)
        .map(|image| TaskImage {
            image_id: image.image_id,
            storage_key: image.storage_key.clone(),
            sha256: Some(image.sha256.clone()),
            caption: None,
            mask: None,
        })
        .collect();
    if images.len() < fewest {
        let detail = format!(
            "concept `{}` has {} photos and needs {fewest}: add more with POST /v1/concepts/{}/images",
            concept.handle,
            images.len(),
            concept.concept_id
        );
        return Err(FieldError::new(format!("/concepts/{index}"), Code::DatasetTooSmall, detail));
    }
    Ok(TaskConcept {
        concept_id: concept.concept_id,
        handle: concept.handle.clone(),
        words: concept.words.clone(),
        images,
    })
}

/// Adds the captions and masks that the photos have now.
pub(super) fn with_notes(concepts: &mut [TaskConcept], notes: &HashMap<ImageId, PhotoNotes>) {
    for concept in concepts {
        for image in &mut concept.images {
            let Some(notes) = notes.get(&image.image_id) else { continue };
            let caption = notes.caption.as_ref();
            image.caption = caption.map(|caption| training_caption(caption, &concept.words));
            image.mask = notes.mask.as_ref().map(|mask| TaskMask {
                storage_key: mask.storage_key(concept.concept_id),
                sha256: mask.sha256.clone(),
            });
        }
    }
}
