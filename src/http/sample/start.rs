//! The request that starts a sample.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::queue::JobOptions;
use crate::app::sample::{NewSample, PromptedSample, SampleOptions};
use crate::domain::code::Code;
use crate::domain::composition::options::CompositionOptions;
use crate::domain::delta_use::ConceptUse;
use crate::domain::id::ImageId;
use crate::domain::invalid::{Checks, Invalid};
use crate::domain::job::schedule::{Priority, Schedule};
use crate::domain::manifest::Manifest;
use crate::domain::merge::options::MergeOptions;
use crate::domain::record::{ExternalId, Labels, Metadata};
use crate::domain::sample::Determinism;
use crate::domain::scheduler::SchedulerName;

/// Images to generate.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartSample {
    /// What to generate. A modifier token in the prompt brings in its concept: `photo of a <rex> dog on the beach`. Required
    /// unless `from_manifest` is given.
    #[schema(examples("photo of a <rex> dog on the beach"))]
    prompt: Option<String>,
    /// What the images should not show. Defaults to the empty prompt.
    negative_prompt: Option<String>,
    /// The number of images, from 1 to 16. Defaults to 1.
    #[schema(minimum = 1, maximum = 16, default = 1)]
    n: Option<usize>,
    /// The index of the first image, from 0 to 999999. Defaults to 0. With `first_index` 5 and `n` 1, only the sixth image of
    /// this seed is generated.
    #[schema(minimum = 0, maximum = 999999, default = 0)]
    first_index: Option<usize>,
    /// Random seed, from 0 to 2⁵³ − 1. The server chooses one if omitted. The same request with the same seed gives the same
    /// images.
    #[schema(maximum = 9007199254740991_u64)]
    seed: Option<u64>,
    /// The number of denoising steps. Defaults to that of the base model.
    #[schema(minimum = 1)]
    num_inference_steps: Option<usize>,
    /// Weight of the prompt against the negative prompt, from 0 to 100. At 1 and below there is no guidance. Defaults to that
    /// of the base model.
    #[schema(minimum = 0, maximum = 100)]
    guidance_scale: Option<f64>,
    /// How much of the concepts the negative prompt sees, from 0 (the base model only) to 1 (all, as in the paper). Defaults
    /// to 1.
    #[schema(minimum = 0, maximum = 1, default = 1.0)]
    unconditional_strength: Option<f64>,
    /// The part of the denoising in which guidance is applied, as `[start, end]` from 0 (noise) to 1 (image). Defaults to
    /// `[0, 1]`. It is measured in noise levels, `1 − timestep / number of trained timesteps`, so it means the same for every
    /// scheduler and number of steps. A step without guidance takes half the time.
    #[schema(min_items = 2, max_items = 2, examples(json!([0.2, 0.8])))]
    guidance_interval: Option<[f64; 2]>,
    /// The scheduler. Defaults to that of the base model.
    scheduler: Option<SchedulerName>,
    /// The share of fresh noise in each DDIM step, from 0 to 1. Other schedulers ignore it. Defaults to that of the base
    /// model.
    #[schema(minimum = 0, maximum = 1)]
    eta: Option<f64>,
    /// Width in pixels, a multiple of the base model's `size_multiple`. Defaults to that of `init_image`, or else to the base
    /// model's `native_size`.
    width: Option<usize>,
    /// Height in pixels, a multiple of the base model's `size_multiple`. Defaults to that of `init_image`, or else to the
    /// base model's `native_size`.
    height: Option<usize>,
    /// The id of an image to start from instead of pure noise: a photo, a generated image, or one uploaded with
    /// `POST /v1/images`. It is scaled to cover the size and cropped at the center.
    init_image: Option<ImageId>,
    /// How much noise is added to `init_image`, above 0 and up to 1: the fraction of the steps that are taken. Defaults to
    /// 0.8.
    #[schema(exclusive_minimum = 0, maximum = 1, default = 0.8)]
    noise_strength: Option<f64>,
    /// Make a small preview of each image every this many steps. Events announce the previews. There are none if omitted.
    #[schema(minimum = 1)]
    preview_every: Option<usize>,
    /// What is promised about the bytes of the images. Defaults to `strict`. `fast` can be quicker on a GPU and differ in the
    /// last bits.
    determinism: Option<Determinism>,
    /// Concepts that no token in the prompt names, and deltas or strengths that differ from the default. At most 8.
    #[schema(max_items = 8)]
    concepts: Option<Vec<ConceptUse>>,
    /// How several deltas are merged, if they are: then `composition.method` defaults to `merge`. Not allowed if fewer than two
    /// take part.
    merge: Option<MergeOptions>,
    /// How several concepts come into one picture. Defaults to `regional` for two or more deltas: the base model lays the
    /// picture out with plain nouns, then each concept's region is generated again with that concept alone.
    composition: Option<CompositionOptions>,
    /// The manifest of a generated image, to generate that image again. Beside it, only `priority`, the deadlines, `metadata` and
    /// `external_id` may be given.
    from_manifest: Option<Manifest>,
    /// Whether to answer only what the request would make: 200 with the resolved request, an estimate of its time and every
    /// warning. Nothing is made. Defaults to false.
    pub(super) dry_run: Option<bool>,
    /// How urgent it is. Within one kind of job, all jobs of a higher priority run first. Defaults to `normal`.
    #[schema(default = "normal")]
    priority: Option<Priority>,
    /// The job fails with `deadline_exceeded` if no worker has started it within so many seconds, 1 to 31536000 (a year).
    #[schema(minimum = 1, maximum = 31_536_000)]
    start_within_seconds: Option<u64>,
    /// The job fails with `deadline_exceeded` if it has not ended within so many seconds, 1 to 31536000 (a year).
    #[schema(minimum = 1, maximum = 31_536_000)]
    finish_within_seconds: Option<u64>,
    /// Texts of your own, to be returned with the job and never interpreted: at most 16, with keys of up to 64 and values of up to
    /// 512 characters. Defaults to none.
    metadata: Option<Metadata>,
    /// Your own id for the job, of up to 255 characters. A second job of this kind with the same one is refused with
    /// `external_id_taken`, which names the first. Defaults to none.
    external_id: Option<ExternalId>,
}

impl StartSample {
    /// What the job gets besides its task.
    pub(super) fn options(&self) -> JobOptions {
        let metadata = self.metadata.clone().unwrap_or_default();
        let labels = Labels { metadata, external_id: self.external_id.clone() };
        JobOptions { schedule: self.schedule(), labels }
    }

    fn schedule(&self) -> Schedule {
        Schedule {
            priority: self.priority.unwrap_or_default(),
            start_within_seconds: self.start_within_seconds,
            finish_within_seconds: self.finish_within_seconds,
        }
    }
}

impl TryFrom<StartSample> for NewSample {
    type Error = Invalid;

    fn try_from(mut body: StartSample) -> Result<Self, Invalid> {
        match body.from_manifest.take() {
            Some(manifest) => {
                body.refuse_beside_manifest()?;
                Ok(Self::Manifest(Box::new(manifest)))
            }
            None => Ok(Self::Prompt(Box::new(body.into()))),
        }
    }
}

impl From<StartSample> for PromptedSample {
    fn from(body: StartSample) -> Self {
        Self {
            prompt: body.prompt,
            negative_prompt: body.negative_prompt,
            options: SampleOptions {
                n: body.n,
                first_index: body.first_index,
                seed: body.seed,
                num_inference_steps: body.num_inference_steps,
                guidance_scale: body.guidance_scale,
                unconditional_strength: body.unconditional_strength,
                guidance_interval: body.guidance_interval,
                scheduler: body.scheduler,
                eta: body.eta,
                width: body.width,
                height: body.height,
                preview_every: body.preview_every,
                determinism: body.determinism,
            },
            init_image: body.init_image,
            noise_strength: body.noise_strength,
            concepts: body.concepts.unwrap_or_default(),
            merge: body.merge,
            composition: body.composition,
        }
    }
}

impl StartSample {
    /// Names the fields that stand beside a manifest.
    fn refuse_beside_manifest(&self) -> Result<(), Invalid> {
        let mut checks = Checks::default();
        for (pointer, given) in [
            ("/prompt", self.prompt.is_some()),
            ("/negative_prompt", self.negative_prompt.is_some()),
            ("/n", self.n.is_some()),
            ("/first_index", self.first_index.is_some()),
            ("/seed", self.seed.is_some()),
            ("/num_inference_steps", self.num_inference_steps.is_some()),
            ("/guidance_scale", self.guidance_scale.is_some()),
            ("/unconditional_strength", self.unconditional_strength.is_some()),
            ("/guidance_interval", self.guidance_interval.is_some()),
            ("/scheduler", self.scheduler.is_some()),
            ("/eta", self.eta.is_some()),
            ("/width", self.width.is_some()),
            ("/height", self.height.is_some()),
            ("/init_image", self.init_image.is_some()),
            ("/noise_strength", self.noise_strength.is_some()),
            ("/preview_every", self.preview_every.is_some()),
            ("/determinism", self.determinism.is_some()),
            ("/concepts", self.concepts.is_some()),
            ("/merge", self.merge.is_some()),
            ("/composition", self.composition.is_some()),
        ] {
            checks.require(!given, pointer, Code::ConflictingFields, || {
                "from_manifest stands alone: leave this field out, or change it in the manifest"
                    .to_owned()
            });
        }
        checks.finish()
    }
}
