//! Samples: from a prompt to images.

pub(super) mod options;

use sqlx::PgConnection;

pub use self::options::SampleOptions;
use super::binding::{NamedToken, bind, tokens_of};
use super::composition::{compose, unnamed};
use super::dry_run::{DryRun, PromptTokens};
use super::init_image::{ChosenInit, choose_init};
use super::job::Sample;
use super::manifest::task_again;
use super::queue::{Asked, JobOptions};
use super::warnings::{not_applied, not_read, of_settings, of_uses};
use super::{App, Caller, Refusal, random_seed};
use crate::domain::code::Code;
use crate::domain::composition::Composition;
use crate::domain::composition::options::{Composed, CompositionOptions};
use crate::domain::concept::{ConceptWords, ModifierToken};
use crate::domain::delta_use::ConceptUse;
use crate::domain::id::{ConceptId, ImageId, ProjectId};
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::job::JobKind;
use crate::domain::manifest::Manifest;
use crate::domain::merge::MergeRecipe;
use crate::domain::merge::options::MergeOptions;
use crate::domain::model_info::{ModelInfo, check_text};
use crate::domain::sample::{SampleSettings, SampleTask, decimal};
use crate::domain::version::TaskVersion;
use crate::domain::warning::Warning;

/// A sample to start.
#[derive(Clone, Debug)]
pub enum NewSample {
    Prompt(Box<PromptedSample>),
    /// The one image that this manifest describes, again.
    Manifest(Box<Manifest>),
}

/// A prompt and how to sample it; what is `None` is the default.
#[derive(Clone, Debug)]
pub struct PromptedSample {
    pub prompt: Option<String>,
    pub negative_prompt: Option<String>,
    pub options: SampleOptions,
    pub init_image: Option<ImageId>,
    pub noise_strength: Option<f64>,
    /// Concepts that no token in the prompt names, and deltas or strengths other than the default.
    pub concepts: Vec<ConceptUse>,
    /// How several deltas are merged.
    pub merge: Option<MergeOptions>,
    /// How several concepts come into one picture.
    pub composition: Option<CompositionOptions>,
}

impl App {
    /// Queues a sample.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if a setting is out of its range, the prompt would be cut or a name does not resolve;
    /// [`Refusal::QueueFull`].
    pub async fn start_sample(
        &self,
        caller: &Caller,
        new: NewSample,
        options: JobOptions,
    ) -> Result<Sample, Refusal> {
        options.schedule.check()?;
        new.check_texts()?;
        let mut tx = self.db.begin().await?;
        let (asked, _) = self.resolve_sample(&mut tx, caller, new).await?;
        let id = self.enqueue(&mut tx, caller, asked, &options).await?;
        tx.commit().await?;
        self.announce(JobKind::Sample);
        self.queued_job(caller, id).await
    }

    /// Answers what [`Self::start_sample`] would queue.
    ///
    /// # Errors
    /// The same, without [`Refusal::QueueFull`].
    pub async fn try_sample(
        &self,
        caller: &Caller,
        new: NewSample,
        options: JobOptions,
    ) -> Result<DryRun<SampleTask>, Refusal> {
        options.schedule.check()?;
        new.check_texts()?;
        let mut db = self.db.acquire().await?;
        let (asked, prompt_tokens) = self.resolve_sample(&mut db, caller, new).await?;
        let dry_run = self.dry_run(&mut db, asked, options.schedule).await?;
        Ok(DryRun { prompt_tokens, ..dry_run })
    }

    async fn resolve_sample(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        new: NewSample,
    ) -> Result<(Asked<SampleTask>, Option<PromptTokens>), Refusal> {
        let (project_id, model) = (caller.project_id(), &self.model);
        let (mut asked, tokens) = match new {
            NewSample::Prompt(sample) => {
                let (asked, tokens) = sample.resolve(db, project_id, model).await?;
                (asked, Some(tokens))
            }
            NewSample::Manifest(manifest) => {
                let task = task_again(db, project_id, model, *manifest).await?;
                (Asked { task, warnings: Vec::new() }, None)
            }
        };
        asked.warnings.extend(self.merge_warnings(&asked.task).await);
        Ok((asked, tokens))
    }
}

impl NewSample {
    /// Refuses long texts before a connection is taken.
    fn check_texts(&self) -> Result<(), FieldError> {
        match self {
            Self::Prompt(sample) => {
                for (text, pointer) in
                    [(&sample.prompt, "/prompt"), (&sample.negative_prompt, "/negative_prompt")]
                {
                    check_text(text.as_deref().unwrap_or_default(), pointer)?;
                }
                Ok(())
            }
            Self::Manifest(_) => Ok(()), // nothing is looked for in its texts before they are checked
        }
    }
}

impl PromptedSample {
    /// What the request asks for, its names resolved and its defaults filled in.
    async fn resolve(
        self,
        db: &mut PgConnection,
        project_id: ProjectId,
        model: &ModelInfo,
    ) -> Result<(Asked<SampleTask>, PromptTokens), Refusal> {
        let init = choose_init(db, project_id, model, self.init_image, self.noise_strength).await?;
        let settings = self.options.resolve(model, init.as_ref());
        settings.check(model)?;
        let mut warnings: Vec<Warning> =
            init.iter().filter_map(|chosen| chosen.of_size(&self.options, &settings)).collect();
        let init = init.map(|chosen| chosen.init);
        if let Some(init) = &init {
            init.check(&settings)?;
        }
        let prompt = self.prompt.ok_or_else(|| {
            let detail = "a sample needs a prompt or from_manifest";
            FieldError::new("/prompt", Code::MissingField, detail)
        })?;
        let negative_prompt = self.negative_prompt.unwrap_or_default();
        let tokens = named_tokens(&prompt, &negative_prompt, &settings)?;
        let binding = bind(db, project_id, model, &self.concepts, &tokens).await?;
        let modifier_tokens = binding.modifier_tokens();
        check_prompts(model, &prompt, &negative_prompt, &modifier_tokens)?;
        let tokens = PromptTokens {
            prompt: model.prompt_tokens(&prompt, &modifier_tokens),
            negative_prompt: model.prompt_tokens(&negative_prompt, &modifier_tokens),
        };
        let participants = binding.participants();
        let composed = Composed {
            prompt: &prompt,
            negative_prompt: &negative_prompt,
            participants: &participants,
            has_init_image: init.is_some(),
            size: (settings.width, settings.height),
            num_inference_steps: settings.num_inference_steps,
        };
        let composition = compose(self.composition, self.merge.is_some(), composed, model)?;
        warnings.extend(unnamed(&composition, composed));
        warnings.extend(of_settings(&self.options, &settings, &negative_prompt, model));
        warnings.extend(of_uses(&self.concepts));
        for (text, pointer) in [(&prompt, "/prompt"), (&negative_prompt, "/negative_prompt")] {
            warnings.extend(not_read(text, pointer));
        }
        let named: Vec<(ConceptId, &ConceptWords)> =
            binding.concepts.iter().map(|one| (one.concept_id, &one.words)).collect();
        warnings.extend(not_applied(db, project_id, &prompt, "/prompt", &named).await?);
        let merged = if composition == Composition::Merge { binding.deltas.len() } else { 0 };
        let task = SampleTask {
            version: TaskVersion::NEWEST,
            base_digest: model.digest.clone(),
            prompt,
            negative_prompt,
            settings,
            merge: merge_recipe(self.merge, merged, model)?,
            deltas: binding.deltas,
            composition,
            init,
            warnings: Vec::new(), // with the job
        };
        Ok((Asked { task, warnings }, tokens))
    }
}

impl SampleOptions {
    /// Fills in the defaults: those of the base model, and the size that fits the initial image if there is one.
    pub(super) fn resolve(&self, model: &ModelInfo, init: Option<&ChosenInit>) -> SampleSettings {
        let defaults = &model.sampling;
        let native = (model.native_size, model.native_size);
        let (width, height) = init.map_or(native, |chosen| (chosen.width, chosen.height));
        SampleSettings {
            n: self.n.unwrap_or(1),
            first_index: self.first_index.unwrap_or(0),
            seed: self.seed.unwrap_or_else(random_seed),
            num_inference_steps: self.num_inference_steps.unwrap_or(defaults.num_inference_steps),
            guidance_scale: decimal(self.guidance_scale.unwrap_or(defaults.guidance_scale)),
            unconditional_strength: decimal(self.unconditional_strength.unwrap_or(1.0)),
            guidance_interval: self.guidance_interval.unwrap_or([0.0, 1.0]).map(decimal),
            scheduler: self.scheduler.unwrap_or(defaults.scheduler),
            eta: decimal(self.eta.unwrap_or(defaults.eta)),
            width: self.width.unwrap_or(width),
            height: self.height.unwrap_or(height),
            determinism: self.determinism.unwrap_or_default(),
            preview_every: self.preview_every,
        }
    }
}

/// The modifier tokens of both prompts.
fn named_tokens(
    prompt: &str,
    negative_prompt: &str,
    settings: &SampleSettings,
) -> Result<Vec<NamedToken>, FieldError> {
    let mut tokens = tokens_of(prompt, "/prompt")?;
    let of_negative = tokens_of(negative_prompt, "/negative_prompt")?;
    if !of_negative.is_empty() && settings.unconditional_strength <= 0.0 {
        let detail = "at 0 the negative prompt sees no concept, and this one names some";
        let pointer = "/unconditional_strength";
        return Err(FieldError::new(pointer, Code::ConflictingFields, detail));
    }
    tokens.extend(of_negative);
    Ok(tokens)
}

/// Refuses prompts that would be cut.
fn check_prompts(
    model: &ModelInfo,
    prompt: &str,
    negative_prompt: &str,
    modifier_tokens: &[ModifierToken],
) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    for (text, pointer) in [(prompt, "/prompt"), (negative_prompt, "/negative_prompt")] {
        if let Err(error) = model.check_prompt(text, modifier_tokens, pointer) {
            checks.push(error);
        }
    }
    checks.finish()
}

/// Resolves how this many deltas are merged. The options are not allowed with fewer than two deltas.
pub(super) fn merge_recipe(
    options: Option<MergeOptions>,
    deltas: usize,
    model: &ModelInfo,
) -> Result<MergeRecipe, Invalid> {
    if deltas > 1 {
        return options.unwrap_or_default().recipe(model, "/merge");
    }
    match options {
        None => Ok(MergeRecipe::default()),
        Some(_) => {
            let detail =
                "the request names fewer than two deltas, so nothing is merged: leave this out";
            Err(FieldError::new("/merge", Code::NotApplicable, detail).into())
        }
    }
}
