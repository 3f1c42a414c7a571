//! Client tokens: what a browser gets instead of a key.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Timestamp;
use super::error::{ApiError, Problem};
use super::extract::Json;
use super::image::content_path;
use super::job::job_path;
use crate::app::client_token::{IssuedToken, NewClientToken};
use crate::app::{App, Caller};
use crate::domain::access::Bound;

/// A client token to make, for either a concept or a job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateClientToken {
    /// The id or handle of a concept. The token reads the concept, lists its photos and, if the key may write concepts, adds
    /// photos; all of it by the concept's id.
    concept: Option<String>,
    /// The id of a training, merge, sample, evaluation or compression. The token reads the job and its stream of events.
    job: Option<String>,
    /// The origin of the pages that may use the token, such as `https://shop.example`. Any if left out.
    #[schema(examples("https://shop.example"))]
    origin: Option<String>,
    /// For how many seconds it is good, from 1 to 900. 300 if left out.
    #[schema(minimum = 1, maximum = 900)]
    expires_in_seconds: Option<u64>,
}

/// A client token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClientTokenBody {
    #[schema(value_type = String, examples("client_token"))]
    object: &'static str,
    /// The token, to be sent as `Authorization: Bearer`, or as the parameter `token` where no header can be sent.
    token: String,
    /// The path of what it is good for.
    resource: String,
    /// The origin of the pages that may use it; null for any.
    origin: Option<String>,
    /// When it stops being good.
    expires_at: Timestamp,
}

impl From<IssuedToken> for ClientTokenBody {
    fn from(issued: IssuedToken) -> Self {
        let resource = match issued.bound {
            Bound::Concept(concept) => format!("/v1/concepts/{concept}"),
            Bound::Job(kind, job) => job_path(job, kind),
            Bound::Image(image) => content_path(image),
        };
        Self {
            object: "client_token",
            token: issued.text,
            resource,
            origin: issued.origin,
            expires_at: issued.expires_at.into(),
        }
    }
}

/// Makes a client token, with which a browser uploads photos of one concept or follows one job.
///
/// It can do no more than the key that makes it, for at most 15 minutes, and it dies with the key. `EventSource` cannot send
/// headers, so a stream of events takes the token as the parameter `token` as well.
#[utoipa::path(post, path = "/v1/client-tokens", tag = "keys", request_body = CreateClientToken,
    responses(
        (status = 201, body = ClientTokenBody, description = "Created"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "`keys_not_in_use`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`conflicting_fields`, `unknown_field`, `unknown_concept`, `invalid_value`, `out_of_range`"),
    ))]
pub(crate) async fn create_client_token(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<CreateClientToken>,
) -> Result<impl IntoResponse, ApiError> {
    let CreateClientToken { concept, job, origin, expires_in_seconds: seconds } = body;
    let new = NewClientToken { concept, job, origin, seconds };
    let body = ClientTokenBody::from(app.create_client_token(&caller, new).await?);
    Ok((StatusCode::CREATED, axum::Json(body)))
}
