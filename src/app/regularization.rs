//! Regularization of a training: from what a request says to sets by their digests.

use super::image_set::{find_image_set, retrieval::check_threshold};
use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::{ClassNoun, modifier_tokens_in};
use crate::domain::image_set::{Generation, ImageSet};
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::model_info::ModelInfo;
use crate::domain::number::decimal;
use crate::domain::regularization::{
    CLASS_PROMPT, Generated, MAX_GENERATED, Regularization, RegularizationSource, Retrieved,
    Selection, class_prompt,
};
use crate::domain::sample::{GUIDANCE_SCALES, MAX_SEED};
use crate::domain::scheduler::SchedulerName;
use crate::domain::training::{ClassImages, TrainingRecipe};

/// The longest class prompt, in bytes; that its tokens fit is checked besides.
const MAX_PROMPT_BYTES: usize = 1024;

/// What a request says about class images.
#[derive(Clone, Debug, Default)]
pub struct NewRegularization {
    pub class_images: Option<ClassImages>,
    pub regularization: Option<RegularizationChoice>,
}

/// The field `regularization`; what is `None` is left to the service.
#[derive(Clone, Debug)]
pub struct RegularizationChoice {
    pub source: RegularizationSource,
    /// The id or digest of a set; the base model's class images if `None`.
    pub set: Option<String>,
    pub select: Option<Selection>,
    /// `{}` stands for the class noun.
    pub prompt: Option<String>,
    pub threshold: Option<f64>,
    pub max_images: Option<usize>,
    pub num_inference_steps: Option<usize>,
    pub guidance_scale: Option<f64>,
    pub scheduler: Option<SchedulerName>,
    pub seed: Option<u64>,
}

impl NewRegularization {
    /// Fills what the request says into the recipe: the number of class images, and that there are none in a step if there are none
    /// at all.
    ///
    /// - `overrides`: the recipe's fields that the request has
    pub(super) fn resolve_recipe(
        &self,
        mut recipe: TrainingRecipe,
        overrides: &serde_json::Map<String, serde_json::Value>,
        model: &ModelInfo,
    ) -> Result<TrainingRecipe, Invalid> {
        let mut checks = Checks::default();
        if let Some(choice) = &self.regularization {
            choice.check(&mut checks);
            checks.require(
                self.class_images.is_none(),
                "/class_images",
                Code::ConflictingFields,
                || "`regularization` says which class images there are: leave this out".to_owned(),
            );
            if let Some(max_images) = choice.max_images {
                checks.require(
                    !overrides.contains_key("num_class_images"),
                    "/recipe/num_class_images",
                    Code::ConflictingFields,
                    || "`regularization.max_images` is the same number: leave this out".to_owned(),
                );
                recipe.num_class_images = max_images;
            }
            checks.require(
                recipe.class_batch_size > 0 || choice.source == RegularizationSource::None,
                "/recipe/class_batch_size",
                Code::ConflictingFields,
                || "0 trains without class images, but `regularization` asks for some".to_owned(),
            );
        }
        checks.finish()?;
        // The resolved recipe does not claim what is not used.
        if !self.has_class_images(model) {
            recipe.class_batch_size = 0;
        }
        Ok(recipe)
    }

    fn has_class_images(&self, model: &ModelInfo) -> bool {
        match (&self.regularization, self.class_images) {
            (Some(choice), _) => choice.source != RegularizationSource::None,
            (None, Some(ClassImages::None)) => false,
            (None, Some(ClassImages::Auto) | None) => model.has_class_images,
        }
    }
}

impl RegularizationChoice {
    /// Refuses numbers out of range, and fields that mean nothing for the source.
    fn check(&self, checks: &mut Checks) {
        use RegularizationSource::{Generated, Retrieved, Set};
        let Self { source, set, select, prompt, threshold, max_images, .. } = self;
        let fields = [
            ("set", set.is_some(), &[Set, Retrieved][..]),
            ("select", select.is_some(), &[Set]),
            ("prompt", prompt.is_some(), &[Retrieved, Generated]),
            ("threshold", threshold.is_some(), &[Retrieved]),
            ("max_images", max_images.is_some(), &[Set, Retrieved, Generated]),
            ("num_inference_steps", self.num_inference_steps.is_some(), &[Generated]),
            ("guidance_scale", self.guidance_scale.is_some(), &[Generated]),
            ("scheduler", self.scheduler.is_some(), &[Generated]),
            ("seed", self.seed.is_some(), &[Generated]),
        ];
        for (name, is_given, sources) in fields {
            checks.require(
                !is_given || sources.contains(source),
                &format!("/regularization/{name}"),
                Code::NotApplicable,
                || format!("`{name}` means nothing for this source: leave it out"),
            );
        }
        checks.in_range(max_images.unwrap_or(1), 1..=100_000, "/regularization/max_images");
        check_threshold(*threshold, "/regularization/threshold", checks);
        checks.in_range(self.seed.unwrap_or(0), 0..=MAX_SEED, "/regularization/seed");
        if let Some(prompt) = prompt
            && let Err(error) = check_template(prompt)
        {
            checks.push(error);
        }
    }

    fn prompt(&self) -> &str {
        self.prompt.as_deref().unwrap_or(CLASS_PROMPT)
    }

    /// How the images of one class are generated.
    fn generation(
        &self,
        noun: &ClassNoun,
        recipe: &TrainingRecipe,
        model: &ModelInfo,
    ) -> Result<Generation, Invalid> {
        let prompt = class_prompt(self.prompt(), noun);
        let generation = Generation {
            base_model_digest: model.digest.clone(),
            prompt,
            num_images: recipe.num_class_images,
            num_inference_steps: self
                .num_inference_steps
                .unwrap_or(model.sampling.num_inference_steps),
            guidance_scale: decimal(self.guidance_scale.unwrap_or(model.sampling.guidance_scale)),
            scheduler: self.scheduler.unwrap_or(model.sampling.scheduler),
            eta: decimal(model.sampling.eta),
            size: model.native_size,
            seed: self.seed.unwrap_or(0), // always the same, so that the set is found again
        };
        check_generation(&generation, model)?;
        Ok(generation)
    }
}

impl App {
    /// Resolves what a request says for concepts of these classes.
    ///
    /// - `recipe`: what [`NewRegularization::resolve_recipe`] has answered
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a set that does not exist, or a prompt that finds nothing; [`Refusal::NotReady`].
    pub(super) async fn resolve_regularization(
        &self,
        caller: &Caller,
        new: &NewRegularization,
        recipe: &TrainingRecipe,
        nouns: &[&ClassNoun],
    ) -> Result<Regularization, Refusal> {
        if recipe.class_batch_size == 0 {
            return Ok(Regularization::None);
        }
        let Some(choice) = &new.regularization else {
            let set = self.model.class_image_set.clone();
            return Ok(Regularization::Set { set, select: Selection::ClassNoun });
        };
        match choice.source {
            RegularizationSource::None => Ok(Regularization::None),
            RegularizationSource::Set => self.resolve_set(caller, choice).await,
            RegularizationSource::Retrieved => {
                self.resolve_retrieved(caller, choice, recipe, nouns).await
            }
            RegularizationSource::Generated => {
                self.resolve_generated(caller, choice, recipe, nouns).await
            }
        }
    }

    async fn resolve_set(
        &self,
        caller: &Caller,
        choice: &RegularizationChoice,
    ) -> Result<Regularization, Refusal> {
        // The base model's set has images of many classes, a set that a user names is probably meant as a whole.
        let default = match &choice.set {
            Some(_) => Selection::All,
            None => Selection::ClassNoun,
        };
        let set = Some(self.named_set(caller, choice).await?.reference());
        Ok(Regularization::Set { set, select: choice.select.unwrap_or(default) })
    }

    async fn resolve_retrieved(
        &self,
        caller: &Caller,
        choice: &RegularizationChoice,
        recipe: &TrainingRecipe,
        nouns: &[&ClassNoun],
    ) -> Result<Regularization, Refusal> {
        let set = self.named_set(caller, choice).await?;
        let threshold = match choice.threshold {
            Some(threshold) => decimal(threshold),
            None => self.retrieval_threshold("/regularization/source").await?,
        };
        let mut concepts = Vec::new();
        for noun in nouns {
            let prompt = class_prompt(choice.prompt(), noun);
            let pointer = "/regularization/prompt";
            let chosen =
                self.choose(&set, &prompt, pointer, threshold, recipe.num_class_images).await?;
            if chosen.found.images.is_empty() {
                let best = chosen.found.best.map(|best| best.similarity);
                return Err(nothing_retrieved(&set, &prompt, threshold, best).into());
            }
            concepts.push(Retrieved { prompt, images: chosen.found.images });
        }
        let evaluator = self.text_indexes("/regularization/source")?.evaluator().digest.clone();
        Ok(Regularization::Retrieved { set: set.reference(), evaluator, threshold, concepts })
    }

    async fn resolve_generated(
        &self,
        caller: &Caller,
        choice: &RegularizationChoice,
        recipe: &TrainingRecipe,
        nouns: &[&ClassNoun],
    ) -> Result<Regularization, Refusal> {
        let mut concepts = Vec::new();
        for noun in nouns {
            let generation = choice.generation(noun, recipe, &self.model)?;
            let (project_id, digest) = (caller.project_id(), generation.digest());
            let made = db::image_set::find_generated(&self.db, project_id, &digest).await?;
            concepts.push(Generated { generation, set: made.map(|set| set.reference()) });
        }
        Ok(Regularization::Generated { concepts })
    }

    /// The set that a request names, or the base model's.
    async fn named_set(
        &self,
        caller: &Caller,
        choice: &RegularizationChoice,
    ) -> Result<ImageSet, Refusal> {
        let pointer = "/regularization/set";
        let name = match (&choice.set, &self.model.class_image_set) {
            (Some(name), _) => name.as_str(),
            (None, Some(set)) => &set.digest,
            (None, None) => {
                let detail = "the base model has no class images: name a set that was uploaded";
                return Err(FieldError::new(pointer, Code::MissingField, detail).into());
            }
        };
        let set = find_image_set(&self.db, caller.project_id(), name).await?;
        set.ok_or_else(|| {
            let detail = format!("there is no image set `{name}`: see GET /v1/image-sets");
            FieldError::new(pointer, Code::UnknownImageSet, detail).into()
        })
    }
}

fn nothing_retrieved(
    set: &ImageSet,
    prompt: &str,
    threshold: f64,
    best: Option<f64>,
) -> FieldError {
    let best = best.map_or_else(String::new, |best| format!("; the best has {best:.3}"));
    let detail = format!(
        "no caption of set `{}` has a similarity of {threshold} to `{prompt}`{best}: lower `threshold`, or choose another set",
        set.name
    );
    FieldError::new("/regularization/threshold", Code::NothingRetrieved, detail)
}

/// Refuses a prompt that the base model would read otherwise than it is meant.
fn check_template(prompt: &str) -> Result<(), FieldError> {
    let pointer = "/regularization/prompt";
    if prompt.trim().is_empty() || prompt.len() > MAX_PROMPT_BYTES {
        let detail =
            format!("a class prompt has 1 to {MAX_PROMPT_BYTES} bytes; {{}} is the class noun");
        return Err(FieldError::new(pointer, Code::InvalidValue, detail));
    }
    match modifier_tokens_in(prompt) {
        Ok(tokens) if tokens.is_empty() => Ok(()),
        Ok(_) | Err(_) => {
            let detail = "class images show the plain class: write no modifier token";
            Err(FieldError::new(pointer, Code::InvalidValue, detail))
        }
    }
}

/// Refuses what the base model cannot generate.
fn check_generation(generation: &Generation, model: &ModelInfo) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    let pointer = |name: &str| format!("/regularization/{name}");
    checks.in_range(generation.num_images, 1..=MAX_GENERATED, &pointer("max_images"));
    let (steps, steps_pointer) = (generation.num_inference_steps, pointer("num_inference_steps"));
    checks.in_range(steps, 1..=model.num_train_timesteps, &steps_pointer);
    if (1..=model.num_train_timesteps).contains(&steps)
        && let Err(reason) = (model.check_steps)(generation.scheduler, steps)
    {
        checks.push(FieldError::new(steps_pointer, Code::OutOfRange, reason));
    }
    checks.in_range(generation.guidance_scale, GUIDANCE_SCALES, &pointer("guidance_scale"));
    if let Err(error) = model.check_prompt(&generation.prompt, &[], &pointer("prompt")) {
        checks.push(error);
    }
    checks.finish()
}
