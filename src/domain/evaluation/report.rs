//! What an evaluation has found.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::concept::Handle;
use crate::domain::digest::Digest;
use crate::domain::evaluator_info::EvaluatorInfo;

/// A mean with its 95 % interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Estimate {
    /// Null if there is nothing to take a mean of.
    pub mean: Option<f64>,
    /// The interval that covers the true mean in 95 of 100 repetitions. Null if too little is known for one.
    pub interval: Option<[f64; 2]>,
    /// The number of values.
    pub n: usize,
    /// Why `mean` or `interval` is null.
    pub reason: Option<String>,
}

impl Estimate {
    /// No figure, and why.
    pub fn none(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::default() }
    }
}

/// What an evaluation has found. Alignments are cosines of the evaluator's features, from −1 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluationReport {
    /// The model that the features come from.
    pub evaluator: EvaluatorInfo,
    /// The number of images of each subject on each prompt.
    pub images_per_prompt: usize,
    /// The photos that images are compared with.
    pub photos: Vec<PhotosReport>,
    /// The mean of `alignment` over all concepts: what `image_alignment` would be if every image were another photo.
    pub photos_alignment: Option<f64>,
    /// Real images of the class, if the request named some.
    pub held_out: Option<HeldOutReport>,
    /// In the order of the request.
    pub subjects: Vec<SubjectReport>,
}

/// The photos of one concept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PhotosReport {
    pub concept: Handle,
    /// The number of photos.
    pub count: usize,
    /// The image-alignment of each photo with the others.
    pub alignment: Estimate,
}

/// The images that KID compares with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldOutReport {
    /// The digest of the image set.
    pub digest: Digest,
    /// The number of images.
    pub count: usize,
}

/// The figures of one subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SubjectReport {
    /// Its name in the request, or the one that it was given.
    pub name: String,
    /// Whether this is the base model alone.
    pub is_base: bool,
    /// How well the images agree with their prompts, over the prompts that name a concept. Modifier tokens are left out of the
    /// prompt.
    pub text_alignment: Estimate,
    /// How well the images agree with the photos of the concepts that their prompts name: the mean over all pairs of image and
    /// photo.
    pub image_alignment: Estimate,
    /// `image_alignment` with each concept by itself, over the prompts that name it.
    pub concepts: Vec<ConceptAlignment>,
    /// How well the images of prompts that name no concept agree with the photos all the same. It should be that of the base
    /// model.
    pub leak: Estimate,
    /// How much of the way from the base model's `image_alignment` to the photos' own has been made: 0 is the base model, 1
    /// is as good as another photo. Null for the base model itself.
    pub share: Estimate,
    /// The fraction of images for which their own prompt is the nearest of the prompts. The means of the images' and of the
    /// prompts' features are taken away first.
    pub scene: Estimate,
    /// The things of images of several, each in its own part of the image. Null if no prompt shows several things.
    #[serde(default)]
    pub composition: Option<CompositionReport>,
    /// The distance from the held-out images.
    pub kid: Option<KidReport>,
    /// Prompt by prompt, in the order of the request.
    pub prompts: Vec<PromptReport>,
}

/// Agreement with the photos of one concept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConceptAlignment {
    pub concept: Handle,
    pub image_alignment: Estimate,
}

/// Images of several things, of which at least one is a concept. Each concept is compared with its photos in the part of the image
/// that it has to itself: the middle of a half for two things, of a third for three, a quadrant for four, each a square. Parts
/// are handed out so that the sum of alignments is largest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompositionReport {
    /// How well each concept's part agrees with its photos: the mean over the concepts of an image.
    pub image_alignment: Estimate,
    /// The same of the concept that the prompt names first, second, …
    pub things: Vec<Estimate>,
    /// The same by concept.
    pub concepts: Vec<ConceptAlignment>,
    /// How well each concept's part agrees with the photos of the other concepts that the prompt names.
    pub leak: Estimate,
    /// The fraction of images in which every concept is there: its part agrees with its photos at least half as well as they
    /// agree with each other, and better than with the photos of any other concept that the prompt names.
    pub all_present: Estimate,
}

/// Kernel inception distances, with the evaluator's features in place of Inception's. The kernel is (x·y/d + 1)³.
///
/// The estimator is unbiased, so that a small distance may come out below 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KidReport {
    /// Of the images whose prompts name a concept.
    pub named: KidEstimate,
    /// Of the images whose prompts name none.
    pub unnamed: KidEstimate,
}

/// One kernel inception distance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KidEstimate {
    /// The mean over the subsets. Null if there are fewer than two images.
    pub value: Option<f64>,
    /// The standard deviation over the subsets. Null for a single subset.
    pub std: Option<f64>,
    /// Images of each side in a subset.
    pub subset_size: usize,
    /// The number of subsets.
    pub subsets: usize,
    /// Why `value` is null.
    pub reason: Option<String>,
}

/// The images of one subject on one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PromptReport {
    /// What was generated.
    pub prompt: String,
    /// Whether the prompt names a concept.
    pub names_concept: bool,
    pub text_alignment: Estimate,
    pub image_alignment: Estimate,
    /// Null if the prompt does not show several things.
    #[serde(default)]
    pub composition: Option<CompositionReport>,
}
