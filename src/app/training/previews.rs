//! What a training draws of itself while it runs.

use crate::app::sample::SampleOptions;
use crate::app::{App, Caller, Refusal};
use crate::db;
use crate::domain::id::TrainingId;
use crate::domain::invalid::{Checks, Invalid};
use crate::domain::model_info::ModelInfo;
use crate::domain::training::task::TrainingTask;
use crate::domain::training_preview::{PreviewPlan, TrainingPreview};

/// The previews that a request asks for.
#[derive(Clone, Debug)]
pub struct NewPreviews {
    /// `{}` stands for the names of the concepts.
    pub prompts: Vec<String>,
    /// A fifth of the steps if `None`.
    pub every: Option<usize>,
    /// 0 if `None`.
    pub seed: Option<u64>,
}

impl NewPreviews {
    /// With the names of the concepts and every number filled in.
    ///
    /// # Errors
    /// One for each number out of range and each prompt that does not fit the model.
    pub(super) fn resolve(
        &self,
        task: &TrainingTask,
        model: &ModelInfo,
    ) -> Result<PreviewPlan, Invalid> {
        let names: Vec<String> =
            task.concepts.iter().map(|concept| concept.words.in_prompt()).collect();
        let name = names.join(" and ");
        let steps = task.recipe.max_train_steps;
        let seed = Some(self.seed.unwrap_or_default());
        let plan = PreviewPlan {
            prompts: self.prompts.iter().map(|prompt| prompt.replace("{}", &name)).collect(),
            every: self.every.unwrap_or(steps.div_ceil(5)),
            settings: SampleOptions { seed, ..SampleOptions::default() }.resolve(model, None),
        };
        let mut checks = Checks::default();
        plan.check(steps, &mut checks);
        let tokens: Vec<_> = task
            .concepts
            .iter()
            .filter_map(|concept| concept.words.modifier_token.clone())
            .collect();
        for (index, prompt) in plan.prompts.iter().enumerate() {
            let pointer = format!("/previews/prompts/{index}");
            if let Err(error) = model.check_prompt(prompt, &tokens, &pointer) {
                checks.push(error);
            }
        }
        checks.finish()?;
        Ok(plan)
    }
}

impl App {
    /// Lists what a training has drawn so far.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no training of this id.
    pub async fn training_previews(
        &self,
        caller: &Caller,
        id: TrainingId,
    ) -> Result<Vec<TrainingPreview>, Refusal> {
        self.standing::<TrainingTask>(caller, id).await?;
        Ok(db::training_preview::list(&self.db, id.into()).await?)
    }

    /// Returns one of these images as PNG.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such training, or it has not drawn this.
    pub async fn training_preview(
        &self,
        caller: &Caller,
        id: TrainingId,
        preview: TrainingPreview,
    ) -> Result<Vec<u8>, Refusal> {
        self.standing::<TrainingTask>(caller, id).await?;
        let png = db::training_preview::find(&self.db, id.into(), preview).await?;
        png.ok_or_else(|| Refusal::not_found("preview of step", preview.step))
    }
}
