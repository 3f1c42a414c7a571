//! A manifest: everything that made a picture, and nothing of where or when, so that the same picture has the same one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::merge::MergeRecipe;
use super::sample::{Determinism, SampleSettings, SchedulerName};

/// What a picture was made from; it travels in the picture's PNG.
///
/// Deltas and images are named by the digest of their objects, which means the same in every catalog. The scheduler's
/// noise levels are the base model's, and so part of its digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: ManifestFormat,
    /// Version of the program that drew it, and behind the `+` a digest of its engine's sources.
    #[schema(examples("0.1.0+5f2c9d0e8a41b763"))]
    pub engine_version: String,
    /// How numbers were computed: other precisions, devices and instruction sets round otherwise.
    #[schema(examples("f32, cpu avx512, winograd"))]
    pub precision: String,
    /// SHA-256 over the base model's configs and weights.
    pub base_model: String,
    pub prompt: String,
    /// With begin and end, without padding; ids beyond the vocabulary are modifier tokens, in the deltas' order.
    pub prompt_token_ids: Vec<u32>,
    pub negative_prompt: String,
    /// Empty where nothing was guided.
    pub negative_prompt_token_ids: Vec<u32>,
    pub deltas: Vec<ManifestDelta>,
    /// How several deltas were merged.
    pub merge: Option<ManifestMerge>,
    pub seed: u64,
    /// Which of the pictures of this seed.
    pub image_index: usize,
    pub scheduler: SchedulerName,
    pub num_inference_steps: usize,
    pub eta: f64,
    pub guidance_scale: f64,
    pub unconditional_strength: f64,
    pub guidance_interval: [f64; 2],
    pub width: usize,
    pub height: usize,
    pub init_image: Option<ManifestInit>,
    /// Whether the same bytes are promised: false for `fast` pictures of a device that rounds by neighbours.
    pub reproducible: bool,
}

/// The form of the manifest itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ManifestFormat {
    #[serde(rename = "vstar-manifest-1")]
    V1,
}

/// A delta that took part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestDelta {
    /// SHA-256 of the delta's file.
    pub sha256: String,
    pub strength: f64,
}

/// How several deltas were merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ManifestMerge {
    #[serde(flatten)]
    pub recipe: MergeRecipe,
    /// SHA-256 over the captions that the merge left alone, where they are the service's own.
    pub captions_sha256: Option<String>,
}

/// The image that the picture started from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestInit {
    /// SHA-256 of the PNG.
    pub sha256: String,
    pub noise_strength: f64,
}

impl Manifest {
    /// The settings that draw this one picture again.
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
