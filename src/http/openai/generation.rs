//! `POST /openai/v1/images/generations`.

use axum::extract::State;
use axum::http::HeaderMap;

use super::error::OpenAiError;
use super::model::uses_of;
use super::{ImagesBody, ImagesRequest, draw};
use crate::app::{App, Caller};
use crate::domain::code::Code;
use crate::domain::invalid::FieldError;
use crate::http::error::ApiError;
use crate::http::extract::Json;

/// Generates images, in the form of OpenAI's API.
///
/// The answer comes with the images, after at most ten minutes. A client that hangs up cancels the sample, unless it has
/// sent an `Idempotency-Key`.
#[utoipa::path(post, path = "/openai/v1/images/generations", tag = "openai", request_body = ImagesRequest,
    responses(
        (status = 200, body = ImagesBody, description = "OK"),
        (status = 400, body = OpenAiError, description = "A field is wrong: `param` and `code` say which and how"),
        (status = 404, body = OpenAiError, description = "`model_not_found`"),
        (status = 500, body = OpenAiError, description = "The images could not be made: `code` says why"),
        (status = 503, body = OpenAiError, headers(("retry-after" = u64)), description = "`queue_full`, `database_unavailable`"),
    ))]
pub(crate) async fn generate_images(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Json(body): Json<ImagesRequest>,
) -> Result<axum::Json<ImagesBody>, ApiError> {
    body.check()?;
    if body.noise_strength.is_some() {
        let detail = "only /openai/v1/images/edits has an image to add noise to: leave this out";
        return Err(FieldError::new("/noise_strength", Code::NotApplicable, detail).into());
    }
    let model = uses_of(&app, &caller, body.model.as_deref()).await?;
    let format = body.response_format.unwrap_or_default();
    let new = body.into_sample(model, None)?;
    Ok(axum::Json(draw(&app, &caller, &headers, format, new).await?))
}
