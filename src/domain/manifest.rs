//! A manifest: everything that an image was made from. It contains neither place nor time, so equal images have equal
//! manifests.

mod composition;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::composition::{ManifestComposition, ManifestRegion, ManifestRegional};
use super::digest::Digest;
use super::merge::MergeRecipe;
use super::sample::{Determinism, SampleSettings, SchedulerName};

/// What an image was made from. It is embedded in the image's PNG.
///
/// Deltas and images are named by the SHA-256 digests of their files, which are the same in every catalog. The noise levels
/// of the scheduler belong to the base model and are covered by its digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: ManifestFormat,
    /// The version of the program that generated the image and, after the `+`, a digest of its engine's sources.
    #[schema(examples("0.1.0+5f2c9d0e8a41b763"))]
    pub engine_version: String,
    /// How numbers were computed. Other precisions, devices and instruction sets round differently.
    #[schema(examples("f32, cpu avx512, winograd"))]
    pub precision: String,
    /// SHA-256 of the base model's configs and weights, in hex.
    pub base_model: Digest,
    /// The prompt.
    pub prompt: String,
    /// The tokens with start and end, without padding. Ids beyond the vocabulary are modifier tokens, in the order of the
    /// deltas.
    pub prompt_token_ids: Vec<u32>,
    /// The negative prompt.
    pub negative_prompt: String,
    /// The tokens of the negative prompt. Empty without guidance.
    pub negative_prompt_token_ids: Vec<u32>,
    /// The deltas that took part, in their order.
    pub deltas: Vec<ManifestDelta>,
    /// How the deltas were merged. Null if they were not, as when there are fewer than two.
    pub merge: Option<ManifestMerge>,
    /// How the concepts were composed, if not by a merge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub composition: Option<ManifestComposition>,
    /// The random seed.
    pub seed: u64,
    /// The index of the image among the images of its seed.
    pub image_index: usize,
    pub scheduler: SchedulerName,
    /// The number of denoising steps.
    pub num_inference_steps: usize,
    /// The share of fresh noise in each DDIM step.
    pub eta: f64,
    /// Weight of the prompt against the negative prompt.
    pub guidance_scale: f64,
    /// How much of the concepts the negative prompt saw.
    pub unconditional_strength: f64,
    /// The part of the denoising in which guidance was applied.
    pub guidance_interval: [f64; 2],
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The image that the sample started from. Null if it started from pure noise.
    pub init_image: Option<ManifestInit>,
    /// Whether the same manifest always gives the same bytes. False for `fast` images of a device whose rounding depends on
    /// the batch.
    pub reproducible: bool,
}

/// The format of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ManifestFormat {
    #[serde(rename = "vstar-manifest-1")]
    V1,
}

/// A delta that took part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestDelta {
    /// SHA-256 of the delta's file, in hex.
    pub sha256: Digest,
    /// How much of the delta was applied.
    pub strength: f64,
}

/// How several deltas were merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ManifestMerge {
    #[serde(flatten)]
    pub recipe: MergeRecipe,
    /// SHA-256 of the captions that the merge preserved, if they are those of the base model's class images.
    pub captions_sha256: Option<String>,
}

/// The image that the sample started from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestInit {
    /// SHA-256 of the PNG, in hex.
    pub sha256: Digest,
    /// How much noise was added.
    pub noise_strength: f64,
}

impl Manifest {
    /// The settings that generate this one image again.
    pub fn settings(&self) -> SampleSettings {
        SampleSettings {
            n: 1,
            first_index: self.image_index,
            seed: self.seed,
            num_inference_steps: self.num_inference_steps,
            guidance_scale: self.guidance_scale,
            unconditional_strength: self.unconditional_strength,
            guidance_interval: self.guidance_interval,
            scheduler: self.scheduler,
            eta: self.eta,
            width: self.width,
            height: self.height,
            determinism: Determinism::Strict,
            preview_every: None,
        }
    }

    /// The fields in which two manifests differ, with both values, by their names.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let fields = |manifest: &Self| match serde_json::to_value(manifest) {
            Ok(serde_json::Value::Object(fields)) => fields,
            Ok(_) | Err(_) => serde_json::Map::new(), // a manifest always becomes an object
        };
        let (ours, theirs) = (fields(self), fields(other));
        let differing = ours.into_iter().filter_map(|(field, this)| {
            let that = theirs.get(&field).cloned().unwrap_or_default();
            (this != that).then_some(Difference { field, this, that })
        });
        differing.collect()
    }
}

/// A field in which two manifests differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub field: String,
    pub this: serde_json::Value,
    pub that: serde_json::Value,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}, now {}", self.field, self.this, self.that)
    }
}
