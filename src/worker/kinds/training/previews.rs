//! Previews of a running training: drawn on the device's thread between two steps, written beside the next ones.

use std::sync::Arc;

use image::RgbImage;
use tokio::sync::mpsc;

use crate::db;
use crate::domain::training::task::TrainingTask;
use crate::domain::training_preview::{PreviewPlan, TrainingPreview};
use crate::engine::{ConceptUse, Delta, EngineError, Flow, SampleRequest, sample};
use crate::image_file;
use crate::worker::device::TimeSlices;
use crate::worker::engine::Engine;
use crate::worker::job::Job;
use crate::worker::progress::Progress;

/// Draws on the device's thread.
pub(super) struct Drawer {
    plan: PreviewPlan,
    /// The prompts as the base model understands them: without modifier tokens.
    plain: Vec<String>,
    progress: Progress,
    images: mpsc::UnboundedSender<Drawn>,
}

/// Writes what was drawn. It lives no longer than the job's own code.
pub(super) struct Writer<'a> {
    job: &'a Job,
    images: mpsc::UnboundedReceiver<Drawn>,
    /// Not written yet.
    next: Option<Drawn>,
}

struct Drawn {
    preview: TrainingPreview,
    image: RgbImage,
}

/// The two ends of a training's previews; there is no drawer if none were asked for.
pub(super) fn channel<'a>(job: &'a Job, task: &TrainingTask) -> (Option<Drawer>, Writer<'a>) {
    let (sender, images) = mpsc::unbounded_channel();
    let writer = Writer { job, images, next: None };
    let Some(plan) = task.previews.clone() else { return (None, writer) };
    let tokens = task.concepts.iter().filter_map(|one| one.words.modifier_token.as_ref());
    let tokens: Vec<String> = tokens.map(|token| format!("{} ", token.as_str())).collect();
    let plain = plan.prompts.iter().map(|prompt| {
        tokens.iter().fold(prompt.clone(), |prompt, token| prompt.replace(token, ""))
    });
    let plain = plain.collect();
    (Some(Drawer { plan, plain, progress: job.progress.clone(), images: sender }), writer)
}

impl Drawer {
    /// Draws what the base model makes of the prompts. Returns whether to go on.
    pub(super) fn before_the_first_step(&self, engine: &Engine, slices: &mut TimeSlices) -> Flow {
        self.draw(engine, slices, 0, &self.plain, &[])
    }

    /// Draws the prompts if that is due after `step` of `total_steps`. Returns whether to go on.
    ///
    /// A preview is not worth a training: what fails is left out.
    pub(super) fn after_step(
        &self,
        engine: &Engine,
        slices: &mut TimeSlices,
        (step, total_steps): (usize, usize),
        delta: impl FnOnce() -> Result<Delta, EngineError>,
    ) -> Flow {
        if !self.plan.is_due(step, total_steps) {
            return Flow::Continue;
        }
        match delta() {
            Ok(delta) => {
                let learned = ConceptUse { delta: Arc::new(delta), strength: 1.0 };
                self.draw(engine, slices, step, &self.plan.prompts, &[learned])
            }
            Err(error) => {
                tracing::warn!(step, %error, "no previews");
                Flow::Continue
            }
        }
    }

    fn draw(
        &self,
        engine: &Engine,
        slices: &mut TimeSlices,
        step: usize,
        prompts: &[String],
        concepts: &[ConceptUse],
    ) -> Flow {
        for (index, prompt) in prompts.iter().enumerate() {
            let request = self.request(prompt, concepts);
            let drawn = sample(&engine.base, &[request], &mut |_, _| {
                if self.progress.is_stopping() { Flow::Stop } else { Flow::Continue }
            });
            match drawn {
                Ok(images) => {
                    let preview = TrainingPreview { step: step as i32, index: index as i32 };
                    for image in images {
                        // If the writer is gone, so is the job.
                        let _ = self.images.send(Drawn { preview, image });
                    }
                }
                Err(EngineError::Stopped) => return Flow::Stop,
                Err(error) => tracing::warn!(step, index, %error, "no preview"),
            }
            if slices.give(engine) == Flow::Stop {
                return Flow::Stop;
            }
        }
        Flow::Continue
    }

    fn request(&self, prompt: &str, concepts: &[ConceptUse]) -> SampleRequest {
        let settings = &self.plan.settings;
        SampleRequest {
            prompt: prompt.to_owned(),
            negative_prompt: String::new(),
            concepts: concepts.to_vec(),
            seed: settings.seed,
            image_index: 0,
            num_inference_steps: settings.num_inference_steps,
            guidance_scale: settings.guidance_scale,
            unconditional_strength: settings.unconditional_strength,
            guidance_interval: settings.guidance_interval,
            scheduler: settings.scheduler,
            eta: settings.eta,
            width: settings.width,
            height: settings.height,
            init: None,
            determinism: settings.determinism,
        }
    }
}

impl Writer<'_> {
    /// Writes what is drawn until the training ends. May be dropped and called again: nothing is lost.
    pub(super) async fn run(&mut self) {
        loop {
            if self.next.is_none() {
                self.next = self.images.recv().await;
            }
            let Some(Drawn { preview, image }) = &self.next else { return };
            if let Err(error) = self.write(*preview, image).await {
                tracing::warn!(step = preview.step, %error, "a preview was not written");
            }
            self.next = None;
        }
    }

    async fn write(&self, preview: TrainingPreview, image: &RgbImage) -> sqlx::Result<()> {
        let image = image.clone();
        let png = tokio::task::spawn_blocking(move || image_file::encode_plain(&image)).await;
        let Ok(Ok(png)) = png else { return Ok(()) }; // an image of three channels can be encoded
        let Job { context, lease, .. } = self.job;
        db::training_preview::record(&context.db, lease.job_id, lease.fence, preview, &png).await
    }
}
