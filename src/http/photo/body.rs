//! What is said of a photo as a picture to learn from.

use serde::Serialize;
use utoipa::ToSchema;

use crate::app::concept_photo::DescribedPhoto;
use crate::domain::code::Code;
use crate::domain::digest::Digest;
use crate::domain::id::ConceptId;
use crate::domain::photo::{Finding, PhotoVerdict};

/// Something that was noticed about a photo or a concept's photos.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FindingBody {
    pub(in crate::http) code: Code,
    pub(in crate::http) verdict: PhotoVerdict,
    /// What was noticed, and what helps.
    pub(in crate::http) detail: String,
}

impl From<&Finding> for FindingBody {
    fn from(finding: &Finding) -> Self {
        let Finding { code, verdict, detail } = finding.clone();
        Self { code, verdict, detail }
    }
}

/// What a photo is as a picture to learn from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PhotoBody {
    /// The caption as it was given. Null if the photo has none: then the recipe's templates are used.
    caption: Option<String>,
    /// The caption that the photo is trained with: the given one with the concept's name in it. `{}` stands for the name; else the
    /// name takes the place of the class noun; else it is put before the caption. Trainings put words for the size before it.
    training_caption: Option<String>,
    /// Where the photo shows its subject. Null if the whole photo counts.
    mask: Option<MaskBody>,
    /// How good the photo is to learn from. Null if it has not been checked: see `POST /v1/concepts/{concept}/check`.
    verdict: Option<PhotoVerdict>,
    /// What was noticed about it.
    findings: Vec<FindingBody>,
}

/// The subject mask of a photo.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MaskBody {
    /// The digest of the mask's PNG.
    sha256: Digest,
    /// Size of the PNG in bytes.
    size_bytes: i64,
    /// Path of the PNG, which is white where the subject is.
    url: String,
}

impl PhotoBody {
    pub(in crate::http) fn of(photo: &DescribedPhoto, concept: ConceptId) -> Self {
        let url = format!("/v1/concepts/{concept}/images/{}/mask", photo.image.image_id);
        let notes = &photo.notes;
        Self {
            caption: notes.caption.clone(),
            training_caption: photo.training_caption.clone(),
            mask: notes.mask.as_ref().map(|mask| MaskBody {
                sha256: mask.sha256.clone(),
                size_bytes: mask.size_bytes,
                url,
            }),
            verdict: photo.verdict(),
            findings: photo.findings.iter().map(FindingBody::from).collect(),
        }
    }
}
