//! Promotions: which delta of a concept is its current one.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{List, ListBody, PageQuery, Timestamp};
use super::concept::ConceptBody;
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::precondition::IfMatch;
use crate::app::{App, Caller, Precondition};
use crate::domain::id::DeltaId;
use crate::domain::promotion::{Promoter, Promotion};

/// A delta to promote.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PromoteDelta {
    /// A delta that contains the concept.
    delta: DeltaId,
}

/// A delta that became the current one of a concept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PromotionBody {
    #[schema(value_type = String, examples("promotion"))]
    object: &'static str,
    delta: DeltaId,
    /// Whether a training or compression promoted its own delta, or a request did.
    promoted_by: Promoter,
    promoted_at: Timestamp,
    /// When a roll-back undid it. Null if it still counts.
    rolled_back_at: Option<Timestamp>,
}

impl From<Promotion> for PromotionBody {
    fn from(promotion: Promotion) -> Self {
        Self {
            object: "promotion",
            delta: promotion.delta_id,
            promoted_by: promotion.promoted_by,
            promoted_at: promotion.promoted_at.into(),
            rolled_back_at: promotion.rolled_back_at.map(Timestamp::from),
        }
    }
}

/// Makes a delta the current one of a concept.
///
/// Prompts that name the concept use it from now on. Samples that are queued keep the delta that they were requested with. If the
/// delta is the current one already, nothing changes.
#[utoipa::path(post, path = "/v1/concepts/{concept}/promote", tag = "concepts", request_body = PromoteDelta,
    params(("concept" = String, Path, description = "Id or handle"), IfMatch),
    responses(
        (status = 200, body = ConceptBody, description = "The concept with its current delta"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_delta`, `delta_of_another_concept`, `base_model_mismatch`"),
    ))]
pub(crate) async fn promote(
    State(app): State<App>,
    caller: Caller,
    Path(concept): Path<String>,
    precondition: Precondition,
    Json(body): Json<PromoteDelta>,
) -> Result<axum::Json<ConceptBody>, ApiError> {
    Ok(axum::Json(app.promote(&caller, &concept, body.delta, &precondition).await?.into()))
}

/// Makes the delta current that was so before.
///
/// The newest promotion no longer counts, and the one before it does again. Called repeatedly, it goes further back. Promotions
/// whose delta was deleted are skipped.
#[utoipa::path(post, path = "/v1/concepts/{concept}/rollback", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle"), IfMatch),
    responses(
        (status = 200, body = ConceptBody, description = "The concept with its current delta"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`no_earlier_delta`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn roll_back(
    State(app): State<App>,
    caller: Caller,
    Path(concept): Path<String>,
    precondition: Precondition,
) -> Result<axum::Json<ConceptBody>, ApiError> {
    Ok(axum::Json(app.roll_back(&caller, &concept, &precondition).await?.into()))
}

/// Lists which deltas have been the current one of a concept, newest first.
#[utoipa::path(get, path = "/v1/concepts/{concept}/promotions", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle"), PageQuery),
    responses(
        (status = 200, body = ListBody<PromotionBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn list_promotions(
    State(app): State<App>,
    caller: Caller,
    Path(concept): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<List<PromotionBody>, ApiError> {
    let promotions = app.promotions(&caller, &concept, query.page()?).await?;
    let number =
        |promotion: &Promotion| uuid::Uuid::from_u128(u128::from(promotion.number.unsigned_abs()));
    Ok(List::new(promotions, number, PromotionBody::from))
}
