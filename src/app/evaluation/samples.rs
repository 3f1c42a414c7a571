//! The samples that make the images of an evaluation.

use std::collections::HashMap;

use super::super::{App, Caller, Refusal};
use crate::db;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::id::{EvaluationId, SampleId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::page::{Page, PageOf};

/// A sample of an evaluation and what it shows.
#[derive(Clone, Debug)]
pub struct EvaluatedSample {
    pub sample_id: SampleId,
    /// The name of the subject.
    pub subject: String,
    /// What was generated.
    pub prompt: String,
    /// In the order of their indices; none until the sample has succeeded.
    pub images: Vec<Image>,
}

impl App {
    /// Lists the samples of an evaluation, newest first.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no evaluation of this id.
    pub async fn evaluation_samples(
        &self,
        caller: &Caller,
        id: EvaluationId,
        page: Page,
    ) -> Result<PageOf<EvaluatedSample>, Refusal> {
        let job = self.find_job::<EvaluationTask>(caller, id).await?;
        let task = job.task;
        let samples = db::evaluation::samples_of(&self.db, job.job_id).await?;
        let wanted = page.with_one_more();
        let older = samples.into_iter().rev();
        let older = older.filter(|one| wanted.after.is_none_or(|id| one.sample_id.0 < id));
        let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
        let page = page.cut(older.take(limit).collect());
        let ids: Vec<SampleId> = page.items.iter().map(|sample| sample.sample_id).collect();
        let mut images: HashMap<SampleId, Vec<Image>> = HashMap::new();
        for image in db::image::of_samples(&self.db, &ids).await? {
            if let ImageSource::Sample { sample_id, .. } = image.source {
                images.entry(sample_id).or_default().push(image);
            }
        }
        Ok(page.map(|sample| {
            let subject = task.subjects.get(sample.subject);
            let prompt = task.prompts.get(sample.prompt).zip(subject);
            EvaluatedSample {
                sample_id: sample.sample_id,
                subject: subject.map(|subject| subject.name.clone()).unwrap_or_default(),
                prompt: prompt
                    .map(|(prompt, subject)| prompt.for_subject(subject).to_owned())
                    .unwrap_or_default(),
                images: images.remove(&sample.sample_id).unwrap_or_default(),
            }
        }))
    }
}
