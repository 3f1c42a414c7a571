//! Errors in the form of OpenAI's API.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::code::Code;
use crate::http::error::Problem;

/// An error, in the form of OpenAI's API.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiError {
    error: OpenAiErrorBody,
}

/// What is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiErrorBody {
    /// What is wrong and, where the client can correct it, how.
    message: String,
    /// `invalid_request_error`, `authentication_error`, `permission_error`, `rate_limit_error` or `server_error`.
    #[schema(value_type = String)]
    r#type: &'static str,
    /// The field that is at fault.
    param: Option<String>,
    /// The same codes as everywhere in this service, or one of that API's own: `model_not_found`, `invalid_api_key`.
    code: String,
}

/// Writes the errors of this door in that API's form. Errors of other paths are left to
/// [`write_problem`](crate::http::error::write_problem).
pub(crate) async fn write_openai_error(request: Request, next: Next) -> Response {
    let is_ours = request.uri().path().starts_with("/openai/");
    let mut response = next.run(request).await;
    if !is_ours {
        return response;
    }
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let (status, error) = in_openai_form(&problem);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // That API's clients repeat every request that failed with a 5xx, unless they are told not to.
    let again = if problem.is_retryable() { "true" } else { "false" };
    headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static(again));
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *response.body_mut() = Body::from(serde_json::to_vec(&error).unwrap_or_default());
    response
}

/// A problem as clients of that API expect it: its status and its body.
fn in_openai_form(problem: &Problem) -> (StatusCode, OpenAiError) {
    let status = status(problem);
    let code = match problem.code {
        Code::UnknownModel => "model_not_found".to_owned(),
        _ if status == StatusCode::UNAUTHORIZED => "invalid_api_key".to_owned(),
        code => code.to_string(),
    };
    let r#type = match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let param = problem.pointers().next().and_then(param);
    let error = OpenAiErrorBody { message: problem.detail().to_owned(), r#type, param, code };
    (status, OpenAiError { error })
}

/// That API has 400 for fields that are wrong, and 404 for a model that does not exist.
fn status(problem: &Problem) -> StatusCode {
    match (problem.status(), problem.code) {
        (StatusCode::UNPROCESSABLE_ENTITY, Code::UnknownModel) => StatusCode::NOT_FOUND,
        (StatusCode::UNPROCESSABLE_ENTITY, _) => StatusCode::BAD_REQUEST,
        (status, _) => status,
    }
}

/// The field of that API for a pointer into a sample.
fn param(pointer: &str) -> Option<String> {
    let field = pointer.trim_start_matches('/').split('/').next().unwrap_or_default();
    let field = match field {
        "width" | "height" => "size",
        "init_image" | "file" => "image",
        "concepts" => "model",
        field => field,
    };
    (!field.is_empty()).then(|| field.to_owned())
}
