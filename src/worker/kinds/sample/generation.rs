//! Requests to the running batch for a sample's images, or for parts of them.

use std::ops::Range;

use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::stream_of;
use crate::domain::job::Phase;
use crate::domain::sample::{SampleSettings, SampleTask};
use crate::engine::{InitImage, SampleRequest};
use crate::worker::batch::{Generated, GenerationRequest};
use crate::worker::concepts::SampleConcepts;
use crate::worker::error::JobError;
use crate::worker::job::Job;
use crate::worker::job_steps::JobSteps;

/// What is generated for a sample, by its settings unless it says otherwise.
#[derive(Clone)]
pub(super) struct Generation {
    pub(super) prompt: String,
    pub(super) negative_prompt: String,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) init: Option<InitImage>,
    pub(super) settings: SampleSettings,
}

impl Generation {
    /// The sample's own size and settings, without a prompt.
    pub(super) fn of(task: &SampleTask) -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: String::new(),
            width: task.settings.width,
            height: task.settings.height,
            init: None,
            settings: task.settings.clone(),
        }
    }

    /// A count of the steps of so many images.
    pub(super) fn steps(&self, phase: Phase, images: usize) -> JobSteps {
        JobSteps::new(phase, images * self.steps_per_image())
    }

    /// The steps that an image is expected to take.
    pub(super) fn steps_per_image(&self) -> usize {
        let strength = self.init.as_ref().map_or(1.0, |init| init.noise_strength);
        JobSteps::of(self.settings.num_inference_steps, strength)
    }

    /// One request per image.
    pub(super) fn requests(&self, indices: Range<usize>) -> Vec<SampleRequest> {
        indices.map(|index| self.request(index as u64)).collect()
    }

    /// - `image_index`: which noise the image has
    pub(super) fn request(&self, image_index: u64) -> SampleRequest {
        let settings = &self.settings;
        SampleRequest {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            concepts: Vec::new(), // their keys and values come from the conditioner
            seed: settings.seed,
            image_index,
            num_inference_steps: settings.num_inference_steps,
            guidance_scale: settings.guidance_scale,
            unconditional_strength: settings.unconditional_strength,
            guidance_interval: settings.guidance_interval,
            scheduler: settings.scheduler,
            eta: settings.eta,
            width: self.width,
            height: self.height,
            init: self.init.clone(),
            determinism: settings.determinism,
        }
    }
}

/// Adds images to the running batch; they come in the order in which they are finished.
pub(super) fn start(
    job: &Job,
    concepts: SampleConcepts,
    requests: Vec<SampleRequest>,
    preview_every: Option<usize>,
    watched: Vec<Vec<usize>>,
    steps: JobSteps,
) -> BoxStream<'static, Result<Generated, JobError>> {
    let (images, generated) = mpsc::unbounded_channel();
    let progress = job.progress.clone();
    job.context.device.generate(GenerationRequest {
        progress,
        concepts,
        requests,
        preview_every,
        watched,
        steps,
        images,
    });
    stream_of(generated)
}
