//! Evaluations: images of one or several subjects on the same prompts, and figures of how well they show the concepts.
//!
//! An evaluation is queued together with the samples that make its images. It waits until they have ended.

mod check;
mod plot;
mod samples;
mod subject;

use sqlx::PgConnection;

use self::check::{check_evaluator, check_numbers, check_prompts};
pub use self::samples::EvaluatedSample;
use self::subject::{BoundSubject, bind_subjects, compose_subjects};
use super::binding::{concept_named, named_concepts};
use super::dry_run::DryRun;
use super::image_set::find_image_set;
use super::job::Evaluation;
use super::queue::{Asked, JobOptions};
use super::sample::SampleOptions;
use super::training::with_photos;
use super::warnings::{not_read, of_repeated, of_settings};
use super::{App, Caller, Refusal};
use crate::db;
use crate::db::job::NewJob;
use crate::domain::code::Code;
use crate::domain::composition::options::CompositionOptions;
use crate::domain::concept::{Concept, ConceptRef, ConceptWords};
use crate::domain::delta_use::ConceptUse;
use crate::domain::evaluation::part::THINGS;
use crate::domain::evaluation::prompt::EvaluationPrompt;
use crate::domain::evaluation::prompt_set::PromptSet;
use crate::domain::evaluation::{
    DEFAULT_IMAGES_PER_PROMPT, EvaluationTask, HeldOut, MAX_EVALUATED_IMAGES, Subject,
};
use crate::domain::id::{ConceptId, JobId};
use crate::domain::invalid::{FieldError, Invalid, all_or_errors};
use crate::domain::job::cost::estimate;
use crate::domain::job::schedule::Schedule;
use crate::domain::job::{JobKind, Task};
use crate::domain::merge::options::MergeOptions;
use crate::domain::model_info::ModelInfo;
use crate::domain::sample::{SampleSettings, SchedulerName};
use crate::domain::training::task::TaskConcept;
use crate::domain::version::TaskVersion;
use crate::domain::warning::Warning;
use crate::evaluator::Evaluator;
use crate::request_context::RequestContext;

/// The paper's sampler settings.
const SCHEDULER: SchedulerName = SchedulerName::Ddpm;
const NUM_INFERENCE_STEPS: usize = 50;
const GUIDANCE_SCALE: f64 = 6.0;

/// An evaluation to start.
#[derive(Clone, Debug)]
pub struct NewEvaluation {
    pub subjects: Vec<NewSubject>,
    /// Whose photos the images are compared with; those that the subjects' deltas contain if empty.
    pub concepts: Vec<ConceptRef>,
    pub prompts: Vec<NewPrompt>,
    pub prompt_set: Option<PromptSet>,
    pub images_per_prompt: Option<usize>,
    pub negative_prompt: Option<String>,
    pub options: SampleOptions,
    pub held_out: Option<NewHeldOut>,
}

/// A prompt of the request.
#[derive(Clone, Debug)]
pub struct NewPrompt {
    pub text: String,
    /// That the image should show; the concepts that the prompt names if `None`.
    pub things: Option<usize>,
}

/// What to evaluate.
#[derive(Clone, Debug)]
pub struct NewSubject {
    pub name: Option<String>,
    pub base: bool,
    pub concepts: Vec<ConceptUse>,
    pub merge: Option<MergeOptions>,
    pub composition: Option<CompositionOptions>,
}

/// Real images to compute KID against.
#[derive(Clone, Debug)]
pub struct NewHeldOut {
    /// Id or digest of an image set.
    pub set: String,
    pub subset_size: Option<usize>,
}

impl App {
    /// Queues an evaluation and its samples.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for everything that the request can tell: no evaluator, a prompt that would be cut, a name that
    /// does not resolve, concepts without photos, sets that are too small; [`Refusal::QueueFull`].
    pub async fn start_evaluation(
        &self,
        caller: &Caller,
        new: NewEvaluation,
        options: JobOptions,
    ) -> Result<Evaluation, Refusal> {
        options.schedule.check()?;
        let mut tx = self.db.begin().await?;
        let asked = self.resolve_evaluation(&mut tx, caller, new).await?;
        let id = self.enqueue_with_samples(&mut tx, caller, asked, &options).await?;
        tx.commit().await?;
        self.announce(JobKind::Sample);
        self.queued_job(caller, id).await
    }

    /// Answers what [`Self::start_evaluation`] would queue.
    ///
    /// # Errors
    /// The same, without [`Refusal::QueueFull`].
    pub async fn try_evaluation(
        &self,
        caller: &Caller,
        new: NewEvaluation,
        options: JobOptions,
    ) -> Result<DryRun<EvaluationTask>, Refusal> {
        options.schedule.check()?;
        let mut db = self.db.acquire().await?;
        let asked = self.resolve_evaluation(&mut db, caller, new).await?;
        self.dry_run(&mut db, asked, options.schedule).await
    }

    async fn resolve_evaluation(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        new: NewEvaluation,
    ) -> Result<Asked<EvaluationTask>, Refusal> {
        let evaluator = self.evaluator.as_ref().ok_or_else(no_evaluator)?;
        let settings = self.settings(&new, evaluator)?;
        let mut subjects =
            bind_subjects(db, caller.project_id(), &self.model, &new.subjects).await?;
        let (concepts, photos) =
            self.concepts_with_photos(db, caller, &new, &subjects, evaluator).await?;
        let prompts = resolve_prompts(&new, &concepts)?;
        check_prompts(&self.model, evaluator, &prompts, &subjects, &concepts)?;
        check::check_parts(evaluator, &prompts, &settings)?;
        let negative_prompt = new.negative_prompt.clone().unwrap_or_default();
        check::check_negative_prompt(&self.model, &negative_prompt, &subjects, &settings)?;
        compose_subjects(&self.model, &new, &negative_prompt, &prompts, &settings, &mut subjects)?;
        let task = EvaluationTask {
            version: TaskVersion::NEWEST,
            base_digest: self.model.digest.clone(),
            evaluator_digest: evaluator.info().digest.clone(),
            evaluator: evaluator.info().clone(),
            concepts: photos,
            subjects: subjects.into_iter().map(|bound| bound.subject).collect(),
            prompts: prompts.into_iter().map(|(prompt, _)| prompt).collect(),
            negative_prompt,
            settings,
            held_out: None,
        };
        let task =
            EvaluationTask { held_out: self.held_out(db, caller, &new, &task).await?, ..task };
        check_size(&task)?;
        check::check_captions(&task)?;
        let warnings = of_evaluation(&new, &task, &self.model);
        Ok(Asked { task, warnings })
    }

    /// The request's settings, the paper's where it has none; `n` is the number of images of a prompt.
    fn settings(
        &self,
        new: &NewEvaluation,
        evaluator: &Evaluator,
    ) -> Result<SampleSettings, Invalid> {
        let options = SampleOptions {
            scheduler: Some(new.options.scheduler.unwrap_or(SCHEDULER)),
            num_inference_steps: Some(
                new.options.num_inference_steps.unwrap_or(NUM_INFERENCE_STEPS),
            ),
            guidance_scale: Some(new.options.guidance_scale.unwrap_or(GUIDANCE_SCALE)),
            n: Some(1),
            ..new.options.clone()
        };
        let settings = options.resolve(&self.model, None);
        let n = new.images_per_prompt.unwrap_or(DEFAULT_IMAGES_PER_PROMPT);
        check_numbers(new, n)?;
        settings.check(&self.model)?;
        check_evaluator(evaluator, &settings)?;
        Ok(SampleSettings { n, ..settings })
    }

    /// The concepts whose photos count, with their photos.
    async fn concepts_with_photos(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        new: &NewEvaluation,
        subjects: &[BoundSubject],
        evaluator: &Evaluator,
    ) -> Result<(Vec<ConceptWords>, Vec<TaskConcept>), Refusal> {
        let names = match new.concepts.as_slice() {
            [] => subject::concepts_of(subjects),
            given => given.to_vec(),
        };
        if names.is_empty() {
            let detail = "the base model alone has no concept: name those whose photos the images are compared with";
            return Err(FieldError::new("/concepts", Code::MissingField, detail).into());
        }
        let found = named_concepts(db, caller.project_id(), names.iter()).await?;
        let named = names.iter().enumerate();
        let chosen: Vec<&Concept> = all_or_errors(
            named.map(|(index, name)| concept_named(name, &found, &format!("/concepts/{index}"))),
        )?;
        check::check_different(&chosen)?;
        check::check_contained(&chosen, subjects)?;
        let ids: Vec<ConceptId> = chosen.iter().map(|concept| concept.concept_id).collect();
        let images = db::image::of_concepts(db, &ids).await?;
        check::check_photos(evaluator, &chosen, &images)?;
        let photos = with_photos(&chosen, &images, 1)?;
        Ok((chosen.iter().map(|concept| concept.words.clone()).collect(), photos))
    }

    /// The set that KID compares with, if it is large enough for what is asked.
    async fn held_out(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        new: &NewEvaluation,
        task: &EvaluationTask,
    ) -> Result<Option<HeldOut>, Refusal> {
        let Some(held_out) = &new.held_out else { return Ok(None) };
        let set =
            find_image_set(db, caller.project_id(), &held_out.set).await?.ok_or_else(|| {
                let detail = format!(
                    "no image set `{}`: GET /v1/image-sets lists those that exist",
                    held_out.set
                );
                FieldError::new("/held_out/set", Code::UnknownImageSet, detail)
            })?;
        let set = set.reference();
        check::check_subsets(task, set.count, held_out.subset_size)?;
        Ok(Some(HeldOut { set, subset_size: held_out.subset_size }))
    }

    /// Queues the evaluation behind its samples.
    async fn enqueue_with_samples(
        &self,
        tx: &mut PgConnection,
        caller: &Caller,
        asked: Asked<EvaluationTask>,
        options: &JobOptions,
    ) -> Result<crate::domain::id::EvaluationId, Refusal> {
        let native_size = self.model.native_size;
        let (mut tasks, mut places) = (Vec::new(), Vec::new());
        for sample in asked.task.samples() {
            let job_id = JobId::generate();
            places.push((job_id, sample.subject, sample.prompt));
            tasks.push((job_id, Task::Sample(sample.task)));
        }
        let id = self.enqueue_waiting(tx, caller, asked, options, tasks.len()).await?;
        // Samples of other evaluations get their places in the same way.
        db::job::take_turn(&mut *tx, JobKind::Sample).await?;
        let of_evaluation = Schedule { priority: options.schedule.priority, ..Schedule::default() };
        let request = RequestContext::current();
        let request_id = request.as_ref().map(|request| &*request.request_id);
        let traceparent = request.as_ref().and_then(|request| request.traceparent.as_deref());
        let jobs = tasks.iter().map(|(job_id, task)| {
            let elements = task.batch_elements(native_size);
            let job = NewJob::new(*job_id, task, elements, estimate(task, native_size));
            let project_id = caller.project_id();
            NewJob {
                schedule: of_evaluation,
                is_of_evaluation: true,
                project_id,
                request_id,
                traceparent,
                ..job
            }
        });
        db::job::enqueue_all(&mut *tx, &jobs.collect::<Vec<_>>()).await?;
        db::evaluation::link_samples(tx, id.into(), &places).await?;
        Ok(id)
    }
}

/// Fewer images of a prompt than this give figures with wide intervals.
const FEW_IMAGES: usize = 8;

/// Warns of settings that are unusual, and of prompts that say less than they seem to.
fn of_evaluation(new: &NewEvaluation, task: &EvaluationTask, model: &ModelInfo) -> Vec<Warning> {
    let negative_prompt = &task.negative_prompt;
    let mut warnings = of_settings(&new.options, &task.settings, negative_prompt, model);
    let texts: Vec<&str> = new.prompts.iter().map(|prompt| prompt.text.as_str()).collect();
    warnings.extend(of_repeated(&texts, "/prompts"));
    for (index, text) in texts.iter().enumerate() {
        // `{}` is the concept's place here, and no weight.
        warnings.extend(not_read(&text.replace("{}", "thing"), &format!("/prompts/{index}")));
    }
    if task.settings.n < FEW_IMAGES {
        let detail = format!(
            "{} images of a prompt give figures with wide intervals: the paper takes {DEFAULT_IMAGES_PER_PROMPT}",
            task.settings.n
        );
        warnings.push(Warning::new(Code::ValueUnusual, "/images_per_prompt", detail));
    }
    warnings
}

fn no_evaluator() -> FieldError {
    let detail =
        "this service has no evaluator: start it with --evaluator and the folder of a CLIP model";
    FieldError::new("", Code::EvaluatorMissing, detail)
}

/// The request's own prompts, then those of the named set, each with its pointer.
fn resolve_prompts(
    new: &NewEvaluation,
    concepts: &[ConceptWords],
) -> Result<Vec<(EvaluationPrompt, String)>, Invalid> {
    let words: Vec<&ConceptWords> = concepts.iter().collect();
    let own = new.prompts.iter().enumerate();
    let own = own
        .map(|(index, prompt)| (prompt.text.as_str(), prompt.things, format!("/prompts/{index}")));
    let of_set = new.prompt_set.iter().flat_map(|set| set.prompts());
    let of_set = of_set.map(|text| (*text, None, "/prompt_set".to_owned()));
    let prompts = own.chain(of_set).map(|(text, things, pointer)| {
        let prompt = EvaluationPrompt::new(text, &words)
            .map_err(|detail| FieldError::new(&pointer, Code::InvalidValue, detail))?;
        Ok((with_things(prompt, things, &pointer)?, pointer))
    });
    all_or_errors(prompts)
}

/// The prompt with the request's number of things, which counts the concepts that it names.
fn with_things(
    prompt: EvaluationPrompt,
    things: Option<usize>,
    pointer: &str,
) -> Result<EvaluationPrompt, FieldError> {
    let Some(things) = things else { return Ok(prompt) };
    let (named, most) = (prompt.things, *THINGS.end());
    if !(1..=most).contains(&things) || things < named {
        let pointer = format!("{pointer}/things");
        let detail = match named {
            0 | 1 => format!("{things} is outside 1 to {most}"),
            _ => {
                format!("{things} is outside {named} to {most}: the prompt names {named} concepts")
            }
        };
        return Err(FieldError::new(pointer, Code::OutOfRange, detail));
    }
    Ok(EvaluationPrompt { things, ..prompt })
}

fn check_size(task: &EvaluationTask) -> Result<(), FieldError> {
    let count = task.image_count();
    if count <= MAX_EVALUATED_IMAGES {
        return Ok(());
    }
    let detail = format!(
        "{} subjects × {} prompts × {} images are {count}, and at most {MAX_EVALUATED_IMAGES} are generated",
        task.subjects.len(),
        task.prompts.len(),
        task.settings.n
    );
    Err(FieldError::new("/images_per_prompt", Code::OutOfRange, detail))
}

/// The name of a subject in reports, if the request gives none.
fn default_name(subject: &Subject, handles: &[String]) -> String {
    match subject.deltas.as_slice() {
        [] => "base model".to_owned(),
        [one] if (one.strength - 1.0).abs() > 1e-9 => {
            format!("{} ×{}", handles.join(" + "), one.strength)
        }
        _ => handles.join(" + "),
    }
}
