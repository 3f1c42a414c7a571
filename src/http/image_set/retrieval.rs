//! A dry run of retrieval: which images of a set are similar to a prompt.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::SetImageBody;
use crate::app::image_set::{Retrieval, Retrieve, RetrievedCaption};
use crate::app::{App, Caller};
use crate::domain::digest::Digest;
use crate::domain::id::ImageSetId;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Json, Path};

/// What to look for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetrieveForm {
    /// The text that captions should be similar to, such as `photo of a dog`.
    prompt: String,
    /// The least cosine of a caption's and the prompt's CLIP text features, from −1 to 1. Defaults to the evaluator's own threshold,
    /// at most the paper's 0.85.
    #[schema(minimum = -1, maximum = 1)]
    threshold: Option<f64>,
    /// The maximum number of images, from 1 to 1000. Defaults to the paper's 200.
    #[serde(default = "default_images")]
    #[schema(minimum = 1, maximum = 1000, default = 200)]
    max_images: usize,
}

fn default_images() -> usize {
    200
}

/// What a training would retrieve.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RetrievalBody {
    #[schema(value_type = String, examples("retrieval"))]
    object: &'static str,
    /// The set that was searched.
    set: ImageSetId,
    /// The digest of the set.
    set_digest: Digest,
    prompt: String,
    /// The digest of the CLIP model that compared the texts.
    evaluator: Digest,
    /// The threshold that was used.
    threshold: f64,
    /// The evaluator's own threshold: 95 % of the captions of other classes are below it, and it is at most 0.85.
    calibrated_threshold: f64,
    /// The number of all images above the threshold.
    above_threshold: usize,
    /// The number of different captions that are longer than the evaluator reads. They are compared by their beginning.
    truncated_captions: usize,
    /// The images above the threshold, most similar first.
    images: Vec<RetrievedBody>,
    /// The most similar image of the set, above the threshold or not.
    best: Option<RetrievedBody>,
}

/// An image and how similar its caption is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RetrievedBody {
    /// The cosine of the caption's and the prompt's features.
    similarity: f64,
    #[serde(flatten)]
    image: SetImageBody,
}

impl From<Retrieval> for RetrievalBody {
    fn from(retrieval: Retrieval) -> Self {
        let set = retrieval.set.image_set_id;
        let body = |one: RetrievedCaption| RetrievedBody {
            similarity: one.similarity,
            image: SetImageBody::new(set, one.image),
        };
        Self {
            object: "retrieval",
            set,
            set_digest: retrieval.set.digest,
            prompt: retrieval.prompt,
            evaluator: retrieval.evaluator,
            threshold: retrieval.threshold,
            calibrated_threshold: retrieval.calibrated_threshold,
            above_threshold: retrieval.above,
            truncated_captions: retrieval.truncated_captions,
            images: retrieval.images.into_iter().map(body).collect(),
            best: retrieval.best.map(body),
        }
    }
}

/// Says which images of a set a training with `"source": "retrieved"` would use.
///
/// Nothing is changed. The captions of a large set are compared in the background when it is uploaded; until that has ended, the
/// response is 503 with `Retry-After`.
#[utoipa::path(post, path = "/v1/image-sets/{set}/retrieve", tag = "image sets",
    params(("set" = String, Path, description = "Id or digest")), request_body = RetrieveForm,
    responses(
        (status = 200, body = RetrievalBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`evaluator_missing`, `prompt_too_long`, `not_applicable`, `out_of_range`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`image_set_not_indexed`"),
    ))]
pub(crate) async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Path(set): Path<String>,
    Json(body): Json<RetrieveForm>,
) -> Result<axum::Json<RetrievalBody>, ApiError> {
    let RetrieveForm { prompt, threshold, max_images } = body;
    let wanted = Retrieve { prompt, threshold, max_images };
    Ok(axum::Json(app.retrieve(&caller, &set, wanted).await?.into()))
}
