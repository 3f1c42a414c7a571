//! The codes that the rules of single operations refuse with, beside those that all operations of a kind have in common.
//!
//! `tests/service/described.rs` fails if an operation answers with a code that is not listed.

use crate::domain::code::Code;

/// What a request that names concepts and deltas can get wrong.
const NAMES: &[Code] = &[
    Code::UnknownConcept,
    Code::ConceptNotTrained,
    Code::UnknownDelta,
    Code::DeltaOfAnotherConcept,
    Code::AmbiguousConcept,
    Code::AmbiguousStrength,
    Code::TooManyDeltas,
    Code::BaseModelMismatch,
];

/// What a prompt, its composition and the size of its images can get wrong.
const PROMPTS: &[Code] = &[Code::PromptTooLong, Code::ConceptNotNamed, Code::NotAMultiple];

/// What a form of photos with captions can get wrong.
const CAPTIONS: &[Code] = &[Code::ImageSetUnreadable, Code::PromptTooLong];

const GONE: &[Code] = &[Code::DeletedMeanwhile];

const FILES: &[Code] =
    &[Code::ImageUnreadable, Code::UnsupportedImage, Code::ImageTooLarge, Code::ImageTooSmall];

/// Operation, status and codes.
pub(super) const OF_OPERATIONS: &[(&str, &str, &[&[Code]])] = &[
    ("start_sample", "422", &[NAMES, PROMPTS, &[Code::UnknownImage, Code::TooFewDeltas]]),
    ("start_merge", "422", &[NAMES, &[Code::TooFewDeltas, Code::PromptTooLong]]),
    (
        "check_merge",
        "422",
        &[NAMES, &[Code::TooFewDeltas, Code::PromptTooLong, Code::MergeRefused]],
    ),
    (
        "start_evaluation",
        "422",
        &[NAMES, PROMPTS, &[Code::EvaluatorMissing, Code::UnknownImageSet, Code::DatasetTooSmall]],
    ),
    (
        "start_training",
        "422",
        &[
            NAMES,
            &[
                Code::DatasetTooSmall,
                Code::UnknownImageSet,
                Code::NothingRetrieved,
                Code::EvaluatorMissing,
                Code::PromptTooLong,
            ],
        ],
    ),
    ("upload_images", "422", &[FILES, CAPTIONS, &[Code::DuplicateImage, Code::TooManyImages]]),
    ("announce_upload", "422", &[&[Code::CaptionUnreadable]]),
    ("upload_image", "422", &[FILES, &[Code::TooManyImages]]),
    ("set_mask", "422", &[FILES, &[Code::MaskUnusable, Code::TooManyImages]]),
    ("start_training", "409", &[GONE]),
    ("start_sample", "409", &[GONE]),
    ("start_merge", "409", &[GONE]),
    ("start_evaluation", "409", &[GONE]),
    ("compress_delta", "409", &[GONE]),
    ("upload_images", "503", &[&[Code::StorageFull]]),
    ("upload_image", "503", &[&[Code::StorageFull]]),
    ("upload_image_set", "503", &[&[Code::StorageFull]]),
];
