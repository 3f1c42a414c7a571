//! What every resource has in common beside its own fields: revision and labels, their changes, and deletions.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::Timestamp;
use super::error::ApiError;
use super::extract::Json;
use crate::app::removal::Removed;
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::job::JobKind;
use crate::domain::record::{ExternalId, LabelsPatch, Metadata, Record};

/// The revision of a resource, and what its client has attached to it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RecordBody {
    /// Grows with every change of this answer. Also its `ETag`.
    revision: i64,
    /// When it was last changed.
    updated_at: Timestamp,
    /// Your own texts, as they were given.
    metadata: Metadata,
    /// Your own id for it. Null if none was given.
    external_id: Option<ExternalId>,
}

impl From<Record> for RecordBody {
    fn from(record: Record) -> Self {
        Self {
            revision: record.revision,
            updated_at: record.updated_at.into(),
            metadata: record.labels.metadata,
            external_id: record.labels.external_id,
        }
    }
}

/// Changes of what a client has attached to a resource, as a JSON merge patch (RFC 7396): fields that are absent stay as they
/// are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PatchLabels {
    /// Entries to add or to replace; an entry that is null is removed. Null removes all entries. At most 16 remain, with keys of
    /// up to 64 and values of up to 512 characters.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<std::collections::HashMap<String, Option<String>>>)]
    metadata: Option<Option<BTreeMap<String, Option<String>>>>,
    /// Another id of your own, of up to 255 characters. Null removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    external_id: Option<Option<ExternalId>>,
}

impl From<PatchLabels> for LabelsPatch {
    fn from(PatchLabels { metadata, external_id }: PatchLabels) -> Self {
        Self { metadata, external_id }
    }
}

/// Distinguishes a field that is null from one that is absent.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A JSON merge patch: `application/merge-patch+json`, or `application/json`.
#[derive(Debug)]
pub(crate) struct MergePatch<T>(pub(crate) T);

impl<T: DeserializeOwned + ToSchema + 'static, S: Send + Sync> FromRequest<S> for MergePatch<T> {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let essence = content_type.and_then(|value| value.to_str().ok());
        let essence = essence.and_then(|text| text.split(';').next()).map(str::trim);
        if essence.is_some_and(|text| text.eq_ignore_ascii_case("application/merge-patch+json")) {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        Json::from_request(request, state).await.map(|Json(value)| Self(value))
    }
}

/// How to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeletionQuery {
    /// Also delete what depends on it. Defaults to false: then the response is 409 if there is any, and names it.
    #[serde(default)]
    pub(crate) cascade: bool,
}

/// What a deletion has removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletionBody {
    #[schema(value_type = String, examples("deletion"))]
    object: &'static str,
    /// What was asked to be deleted.
    #[schema(examples("cpt_01jd8q2m5xet8v3k9c0r4n7w6a"))]
    id: String,
    /// How many of each kind of resource were removed.
    removed: RemovedBody,
    /// Size of the removed files in bytes, as far as it is known. They are deleted from the object store at once; those that a job
    /// which has not ended still needs are deleted after it. An image set shares its file with all sets of the same images:
    /// `vstar gc` deletes it when nothing needs it any more.
    size_bytes: i64,
    /// Concepts that are left and whose current delta was removed.
    current_deltas: Vec<CurrentDeltaBody>,
}

/// How many of each kind of resource were removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RemovedBody {
    /// Concepts.
    concepts: usize,
    /// Photos of concepts.
    photos: i64,
    /// Images of samples, and uploaded images to start samples from.
    images: i64,
    /// Deltas.
    deltas: usize,
    /// Trainings, with their events and loss curves.
    trainings: i64,
    /// Merges.
    merges: i64,
    /// Samples.
    samples: i64,
    /// Evaluations, with their reports.
    evaluations: i64,
    /// Compressions.
    compressions: i64,
    /// Preference studies, with their links and votes.
    preference_studies: usize,
    /// Image sets.
    image_sets: usize,
    /// Keys of the API.
    api_keys: usize,
    /// Webhook endpoints.
    webhook_endpoints: usize,
    /// Deliveries to webhook endpoints: those of the log, and those that were still to be sent.
    webhook_deliveries: i64,
}

/// The current delta of a concept after a deletion.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CurrentDeltaBody {
    concept: ConceptId,
    /// The delta that was the current one before. Null if none is left.
    current_delta: Option<DeltaId>,
}

impl DeletionBody {
    /// - `id`: what was asked to be deleted
    pub(crate) fn new(id: impl std::fmt::Display, removed: Removed) -> axum::Json<Self> {
        let counts = RemovedBody {
            concepts: removed.concepts,
            photos: removed.photos,
            images: removed.images,
            deltas: removed.deltas,
            trainings: removed.jobs_of(JobKind::Training),
            merges: removed.jobs_of(JobKind::Merge),
            samples: removed.jobs_of(JobKind::Sample),
            evaluations: removed.jobs_of(JobKind::Evaluation),
            compressions: removed.jobs_of(JobKind::Compression),
            preference_studies: removed.studies,
            image_sets: removed.image_sets,
            api_keys: removed.api_keys,
            webhook_endpoints: removed.webhook_endpoints,
            webhook_deliveries: removed.webhook_deliveries,
        };
        let current = removed.current_deltas.into_iter();
        axum::Json(Self {
            object: "deletion",
            id: id.to_string(),
            removed: counts,
            size_bytes: removed.size_bytes,
            current_deltas: current
                .map(|(concept, current_delta)| CurrentDeltaBody { concept, current_delta })
                .collect(),
        })
    }
}
