//! The objects that clients can attach labels to, named alike.

use super::id::{ConceptId, DeltaId, ImageId, ImageSetId, JobId, StudyId, WebhookEndpointId};
use super::job::{JobKind, published_id};

/// An object that has labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labelled {
    Concept(ConceptId),
    Job(JobId, JobKind),
    Image(ImageId),
    ImageSet(ImageSetId),
    Delta(DeltaId),
    Study(StudyId),
    WebhookEndpoint(WebhookEndpointId),
}

impl Labelled {
    /// What the object is, as clients know it.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Concept(_) => "concept",
            Self::Job(_, kind) => kind.as_str(),
            Self::Image(_) => "image",
            Self::ImageSet(_) => "image set",
            Self::Delta(_) => "delta",
            Self::Study(_) => "preference study",
            Self::WebhookEndpoint(_) => "webhook endpoint",
        }
    }
}

impl std::fmt::Display for Labelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Concept(id) => id.fmt(f),
            Self::Job(id, kind) => published_id(*id, *kind).fmt(f),
            Self::Image(id) => id.fmt(f),
            Self::ImageSet(id) => id.fmt(f),
            Self::Delta(id) => id.fmt(f),
            Self::Study(id) => id.fmt(f),
            Self::WebhookEndpoint(id) => id.fmt(f),
        }
    }
}
