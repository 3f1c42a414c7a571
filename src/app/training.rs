//! Trainings: from photos to a delta.

mod start_from;

use serde_json::{Map, Value};

use super::binding::{concept_named, named_concepts};
use super::dry_run::{Dataset, DryRun};
use super::job::Training;
use super::queue::{Asked, JobOptions};
use super::regularization::NewRegularization;
use super::warnings::of_training;
use super::{App, Caller, Refusal, random_seed};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::{ClassNoun, Concept, ConceptRef, ModifierToken};
use crate::domain::id::{ConceptId, DeltaId, TrainingId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::invalid::{Checks, FieldError, Invalid, all_or_errors};
use crate::domain::job::{JobKind, Metric};
use crate::domain::model_info::ModelInfo;
use crate::domain::promotion::Promote;
use crate::domain::sample::MAX_SEED;
use crate::domain::training::{
    MAX_CONCEPTS, MIN_IMAGES, Preset, TaskConcept, TaskImage, TrainingRecipe, TrainingTask,
};
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
        self.job(caller, id).await
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
        let concepts = with_photos(&chosen, &images, MIN_IMAGES)?;
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
        let task = TrainingTask {
            version: TaskVersion::NEWEST,
            base_digest: self.model.digest.clone(),
            concepts,
            preset: new.preset,
            recipe,
            regularization,
            start_from,
            seed: new.seed.unwrap_or_else(random_seed),
            promote: new.promote,
        };
        check_tokens(&task, &new.recipe, &self.model)?;
        check_captions(&task, &self.model)?;
        check_names(&task)?;
        let warnings = of_training(&task, &new.recipe, &usual);
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

/// Refuses modifier tokens that are not free, and what they cannot start from.
///
/// - `asked`: the fields of the recipe that the request gives
fn check_tokens(
    task: &TrainingTask,
    asked: &Map<String, Value>,
    model: &ModelInfo,
) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    let recipe = &task.recipe;
    for (index, concept) in task.concepts.iter().enumerate() {
        let token = concept.words.modifier_token.as_ref();
        if let Err(error) = model.check_modifier_token(token, &format!("/concepts/{index}")) {
            checks.push(error);
        }
    }
    let is_modified = |concept: &&TaskConcept| concept.words.modifier_token.is_some();
    let modifiers = task.concepts.iter().filter(is_modified).count();
    if !recipe.learn.projections() {
        for (index, concept) in task.concepts.iter().enumerate() {
            let pointer = format!("/concepts/{index}");
            checks.require(is_modified(&concept), &pointer, Code::NotApplicable, || {
                format!(
                    "concept `{}` has no modifier token, and nothing else is to be learned: learn key or value as well",
                    concept.handle
                )
            });
        }
    }
    checks.require(
        modifiers == 0 || !recipe.initializer_tokens.is_empty(),
        "/recipe/initializer_tokens",
        Code::InvalidValue,
        || "name at least one entry of the vocabulary for the modifier tokens to start from".into(),
    );
    // Of the preset's, initializers are taken in turn. What the request itself names has to be there.
    for (field, names, used) in [
        ("initializer_tokens", &recipe.initializer_tokens, modifiers),
        (
            "initializer_candidates",
            &recipe.initializer_candidates,
            recipe.initializer_candidates.len(),
        ),
    ] {
        let used = if asked.contains_key(field) { names.len() } else { used };
        for (index, name) in names.iter().enumerate().take(used) {
            let pointer = format!("/recipe/{field}/{index}");
            checks.require(model.has_initializer(name), &pointer, Code::InvalidValue, || {
                format!("`{name}` is not an entry of the base model's vocabulary")
            });
        }
    }
    checks.finish()
}

/// Refuses concepts that no prompt could tell apart.
fn check_names(task: &TrainingTask) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    for (index, concept) in task.concepts.iter().enumerate() {
        let twin = task.concepts[..index].iter().find(|other| {
            other.words.modifier_token.is_none()
                && concept.words.modifier_token.is_none()
                && other.words.class_noun == concept.words.class_noun
        });
        if let Some(twin) = twin {
            let detail = format!(
                "`{}` and `{}` both teach the bare noun `{}`, so their captions are the same: give one a modifier token",
                twin.handle, concept.handle, concept.words.class_noun
            );
            checks.push(FieldError::new(
                format!("/concepts/{index}"),
                Code::AmbiguousConcept,
                detail,
            ));
        }
    }
    checks.finish()
}

/// What captions may begin with, and the field that says so; nothing, for one.
fn prefixes(recipe: &TrainingRecipe) -> Vec<(&str, Option<String>)> {
    let mut prefixes = vec![("", None)];
    if recipe.size_augmentation {
        for (field, texts) in
            [("small_prefixes", &recipe.small_prefixes), ("large_prefixes", &recipe.large_prefixes)]
        {
            let of_field = texts.iter().enumerate();
            prefixes
                .extend(of_field.map(|(index, text)| {
                    (text.as_str(), Some(format!("/recipe/{field}/{index}")))
                }));
        }
    }
    prefixes
}

/// Refuses templates and prefixes whose captions would be cut, for any of the concepts.
fn check_captions(task: &TrainingTask, model: &ModelInfo) -> Result<(), Invalid> {
    let tokens: Vec<ModifierToken> =
        task.concepts.iter().filter_map(|concept| concept.words.modifier_token.clone()).collect();
    let prefixes = prefixes(&task.recipe);
    let mut errors: Vec<FieldError> = Vec::new();
    for concept in &task.concepts {
        for (index, template) in task.recipe.instance_templates.iter().enumerate() {
            let caption = template.replace("{}", &concept.words.in_prompt());
            for (prefix, field) in &prefixes {
                let own = format!("/recipe/instance_templates/{index}");
                let pointer = field.as_ref().unwrap_or(&own);
                let checked = model.check_prompt(&format!("{prefix}{caption}"), &tokens, pointer);
                // A template that is too long by itself is not the prefixes' fault.
                let is_known =
                    |known: &FieldError| known.pointer == *pointer || known.pointer == own;
                if let Err(error) = checked
                    && !errors.iter().any(is_known)
                {
                    errors.push(error);
                }
            }
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Invalid(errors)),
    }
}
