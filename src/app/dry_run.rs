//! Dry runs: what a request would make and how long it would take, without making it.

use sqlx::PgConnection;

use super::job::JobNoun;
use super::queue::Asked;
use super::{App, Refusal};
use crate::db;
use crate::domain::concept::Handle;
use crate::domain::evaluation::{EvaluationSample, EvaluationTask};
use crate::domain::id::ConceptId;
use crate::domain::image::{Image, ImageSource};
use crate::domain::job::cost::estimate;
use crate::domain::job::forecast::Forecast;
use crate::domain::job::schedule::Schedule;
use crate::domain::job::{JobKind, Task};
use crate::domain::regularization::{Regularization, Selection};
use crate::domain::training::task::{TaskConcept, TrainingTask};
use crate::domain::warning::Warning;

/// What a request would make.
#[derive(Clone, Debug)]
pub struct DryRun<N> {
    pub task: N,
    pub warnings: Vec<Warning>,
    /// Trainings only.
    pub dataset: Option<Dataset>,
    /// Samples with a prompt only.
    pub prompt_tokens: Option<PromptTokens>,
    pub forecast: Forecast,
}

/// The number of tokens of a sample's texts, each with begin and end.
#[derive(Clone, Copy, Debug)]
pub struct PromptTokens {
    pub prompt: usize,
    pub negative_prompt: usize,
}

/// What a training would learn from.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// In the order of the request.
    pub concepts: Vec<ConceptDataset>,
    /// Over all concepts; `None` if it depends on the worker.
    pub class_image_count: Option<usize>,
    /// How often each photo is looked at, on average.
    pub passes: f64,
}

/// The photos of a concept.
#[derive(Clone, Debug)]
pub struct ConceptDataset {
    pub concept_id: ConceptId,
    pub handle: Handle,
    pub image_count: usize,
    /// The shortest side among all photos, in pixels.
    pub smallest_side: i32,
    /// Captions as the training makes them.
    pub captions: Vec<String>,
}

impl App {
    /// Foretells what a request would make, without making it.
    pub(super) async fn dry_run<N: JobNoun + Clone>(
        &self,
        db: &mut PgConnection,
        Asked { task, warnings }: Asked<N>,
        schedule: Schedule,
    ) -> Result<DryRun<N>, Refusal> {
        let forecast = self.forecast(db, &task.clone().into_task(), schedule).await?;
        Ok(DryRun { task, warnings, dataset: None, prompt_tokens: None, forecast })
    }

    async fn forecast(
        &self,
        db: &mut PgConnection,
        task: &Task,
        schedule: Schedule,
    ) -> Result<Forecast, Refusal> {
        let native_size = self.model.native_size;
        let rank = schedule.priority.rank();
        let own = db::job::load(&mut *db, task.kind(), rank).await?;
        let own = own.forecast(estimate(task, native_size));
        match task {
            Task::Evaluation(evaluation) => {
                let rank = schedule.priority.rank_of_samples();
                let samples = db::job::load(db, JobKind::Sample, rank).await?;
                let samples = samples.forecast(cost_of_samples(evaluation, native_size));
                Ok(Forecast { run_seconds: own.run_seconds + samples.run_seconds, ..samples })
            }
            Task::Training(_) | Task::Sample(_) | Task::Merge(_) | Task::Compression(_) => Ok(own),
        }
    }
}

/// What the samples of an evaluation cost together.
fn cost_of_samples(task: &EvaluationTask, native_size: usize) -> f64 {
    let cost = |sample: EvaluationSample| estimate(&Task::Sample(sample.task), native_size);
    task.samples().into_iter().map(cost).sum()
}

impl Dataset {
    /// - `images`: the photos of the task's concepts
    pub(super) fn new(task: &TrainingTask, images: &[Image]) -> Self {
        let concepts: Vec<ConceptDataset> =
            task.concepts.iter().map(|concept| of_concept(task, concept, images)).collect();
        let photos: usize = concepts.iter().map(|concept| concept.image_count).sum();
        let looks = task.recipe.max_train_steps * task.recipe.instance_batch_size;
        Self {
            concepts,
            class_image_count: class_image_count(task),
            passes: looks as f64 / photos.max(1) as f64,
        }
    }
}

/// The number of class images over all concepts, as far as the request tells it.
fn class_image_count(task: &TrainingTask) -> Option<usize> {
    let most = task.recipe.num_class_images * task.concepts.len();
    if task.recipe.class_batch_size == 0 {
        return Some(0);
    }
    match &task.regularization {
        Regularization::None => Some(0),
        Regularization::Set { set: Some(set), select: Selection::All } => Some(set.count.min(most)),
        Regularization::Set { .. } => None, // the worker looks for those of the class noun
        Regularization::Retrieved { concepts, .. } => {
            Some(concepts.iter().map(|one| one.images.len()).sum())
        }
        Regularization::Generated { concepts } => {
            Some(concepts.iter().map(|one| one.generation.num_images).sum())
        }
    }
}

/// As many captions of each concept as are shown.
const SHOWN_CAPTIONS: usize = 3;

fn of_concept(task: &TrainingTask, concept: &TaskConcept, images: &[Image]) -> ConceptDataset {
    let is_its = |image: &&Image| matches!(&image.source, ImageSource::Photo { concept_id, .. } if *concept_id == concept.concept_id);
    let sides = images.iter().filter(is_its).map(|image| image.width.min(image.height));
    let name = concept.words.in_prompt();
    let templates = task.recipe.instance_templates.iter().take(SHOWN_CAPTIONS);
    ConceptDataset {
        concept_id: concept.concept_id,
        handle: concept.handle.clone(),
        image_count: concept.images.len(),
        smallest_side: sides.min().unwrap_or(0),
        captions: templates.map(|template| template.replace("{}", &name)).collect(),
    }
}
