//! Previews of a training: what the same prompts give after every so many steps.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, Problem};
use super::extract::Path;
use crate::app::training::NewPreviews;
use crate::app::{App, Caller};
use crate::domain::id::TrainingId;
use crate::domain::training_preview::{PreviewPlan, TrainingPreview};

/// The images that a training draws of itself while it runs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreviewsForm {
    /// 1 to 4 prompts. `{}` stands for the concept's name, such as `<rex> dog`; of several concepts, for their names with
    /// `and` between them.
    #[schema(min_items = 1, max_items = 4)]
    prompts: Vec<String>,
    /// The prompts are drawn after every this many steps and after the last, at most 40 times in all. Defaults to a fifth of
    /// the steps.
    #[schema(minimum = 1, maximum = 100_000)]
    every: Option<usize>,
    /// The seed of the images, the same after all steps, from 0 to 2⁵³ − 1. Defaults to 0.
    #[schema(maximum = 9007199254740991_u64)]
    seed: Option<u64>,
}

impl From<PreviewsForm> for NewPreviews {
    fn from(PreviewsForm { prompts, every, seed }: PreviewsForm) -> Self {
        Self { prompts, every, seed }
    }
}

/// The images that a training draws of itself, with every default filled in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PreviewsBody {
    /// The prompts, with the names of the concepts in them.
    prompts: Vec<String>,
    /// The number of steps after which they are drawn again.
    every: usize,
    /// The seed of the images.
    seed: u64,
}

impl From<PreviewPlan> for PreviewsBody {
    fn from(PreviewPlan { prompts, every, settings }: PreviewPlan) -> Self {
        Self { prompts, every, seed: settings.seed }
    }
}

/// An image that a training has drawn.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrainingPreviewBody {
    /// After how many steps it was drawn. 0 is the base model, which is asked for the prompt without modifier tokens.
    step: i32,
    /// The prompt, as an index into the training's `previews.prompts`.
    index: i32,
    /// Path of the image, a PNG that never changes.
    url: String,
}

/// What a training has drawn.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrainingPreviewsBody {
    #[schema(value_type = String, examples("training_previews"))]
    object: &'static str,
    /// By step, then by prompt.
    data: Vec<TrainingPreviewBody>,
}

/// Lists what a training has drawn so far, if `previews` were asked for.
///
/// The images stay with the training after it has ended. A preview that fails is left out; the training goes on.
#[utoipa::path(get, path = "/v1/trainings/{training_id}/previews", tag = "trainings",
    params(("training_id" = TrainingId, Path)),
    responses(
        (status = 200, body = TrainingPreviewsBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn list_training_previews(
    State(app): State<App>,
    caller: Caller,
    Path(training_id): Path<TrainingId>,
) -> Result<Json<TrainingPreviewsBody>, ApiError> {
    let previews = app.training_previews(&caller, training_id).await?;
    let body = |TrainingPreview { step, index }| TrainingPreviewBody {
        step,
        index,
        url: format!("/v1/trainings/{training_id}/previews/{step}/{index}"),
    };
    let data = previews.into_iter().map(body).collect();
    Ok(Json(TrainingPreviewsBody { object: "training_previews", data }))
}

/// Returns what a training has drawn of one prompt after a number of steps, as a PNG.
#[utoipa::path(get, path = "/v1/trainings/{training_id}/previews/{step}/{index}", tag = "trainings",
    params(("training_id" = TrainingId, Path), ("step" = i32, Path, description = "After how many steps; 0 for the base model"),
        ("index" = i32, Path, description = "Index of the prompt")),
    responses(
        (status = 200, content_type = "image/png", body = Vec<u8>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`: there is no such training, or it has not drawn this"),
    ))]
pub(crate) async fn get_training_preview(
    State(app): State<App>,
    caller: Caller,
    Path((training_id, step, index)): Path<(TrainingId, i32, i32)>,
) -> Result<Response, ApiError> {
    let preview = TrainingPreview { step, index };
    let png = app.training_preview(&caller, training_id, preview).await?;
    let headers = [
        (header::CONTENT_TYPE, "image/png"),
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable"),
    ];
    Ok((headers, png).into_response())
}
