//! Preference studies: people choose between images of two subjects.

mod page;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{List, ListBody, ListQuery, Timestamp, location};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query, from_bytes_rejection};
use super::image::answer_with_file;
use super::precondition::IfMatch;
use super::record::{DeletionBody, MergePatch, PatchLabels, RecordBody};
use crate::app::preference::{NewSide, NewStudy, Side, Study, StudyResult};
use crate::app::{App, Caller, Precondition};
use crate::domain::code::Code;
use crate::domain::evaluation::report::Estimate;
use crate::domain::id::{EvaluationId, ImageId, StudyId};
use crate::domain::invalid::FieldError;
use crate::domain::labelled::Labelled;
use crate::domain::preference::{Criterion, StudySide};
use crate::domain::record::{ExternalId, Labels, Metadata};

/// A preference study to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartStudy {
    /// The first of the two that are compared.
    first: StartSide,
    /// The second. It may be another subject of the same evaluation.
    second: StartSide,
    /// The number of pairs, from 1 to 1000. Defaults to 50. There are fewer if the evaluations have fewer in common.
    #[schema(minimum = 1, maximum = 1000, default = 50)]
    pairs: Option<usize>,
    /// The number of links to make, one for each person, from 1 to 1000. Defaults to 1.
    #[schema(minimum = 1, maximum = 1000, default = 1)]
    links: Option<usize>,
    /// Texts of your own, to be returned with the study and never interpreted: at most 16, with keys of up to 64 and values of up
    /// to 512 characters. Defaults to none.
    metadata: Option<Metadata>,
    /// Your own id for the study, of up to 255 characters. A second study with the same one is refused with `external_id_taken`,
    /// which names the first. Defaults to none.
    external_id: Option<ExternalId>,
}

/// A subject of an evaluation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartSide {
    /// An evaluation that has succeeded.
    evaluation: EvaluationId,
    /// The name of the subject. It may be left out if the evaluation has only one besides the base model.
    subject: Option<String>,
}

impl From<StartSide> for NewSide {
    fn from(body: StartSide) -> Self {
        Self { evaluation: body.evaluation, subject: body.subject }
    }
}

/// Links to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartLinks {
    /// The number of links, from 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    links: usize,
}

/// A preference study and its results.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StudyBody {
    id: StudyId,
    #[schema(value_type = String, examples("preference_study"))]
    object: &'static str,
    first: StudySide,
    second: StudySide,
    /// The number of pairs that each link can vote on.
    pair_count: usize,
    /// Paths of pages to vote on. Each person should get one of their own: a link votes on each pair once.
    links: Vec<String>,
    /// The results so far, one for each criterion.
    results: Vec<StudyResultBody>,
    created_at: Timestamp,
    #[serde(flatten)]
    record: RecordBody,
}

/// How often the first of the two was preferred.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StudyResultBody {
    criterion: Criterion,
    /// Votes for the first.
    first_votes: i64,
    /// Votes for the second.
    second_votes: i64,
    /// The fraction of votes for the first, with Wilson's interval.
    first_share: Estimate,
}

impl From<StudyResult> for StudyResultBody {
    fn from(result: StudyResult) -> Self {
        let [first_votes, second_votes] = result.votes;
        Self { criterion: result.criterion, first_votes, second_votes, first_share: result.share }
    }
}

impl From<Study> for StudyBody {
    fn from(study: Study) -> Self {
        let [first, second] = study.definition.sides;
        Self {
            id: study.study_id,
            object: "preference_study",
            first,
            second,
            pair_count: study.definition.pairs.len(),
            links: study.tokens.iter().map(|token| page::path(token)).collect(),
            results: study.results.into_iter().map(StudyResultBody::from).collect(),
            created_at: study.created_at.into(),
            record: study.record.into(),
        }
    }
}

/// Starts a preference study of two subjects, as in the paper's Table 2.
///
/// People open a link and choose, pair by pair, the image that fits the text better and the one that shows the thing of the
/// photos better. Which subject stands on the left is chosen by chance. The pairs are those of the prompts that both evaluations
/// have.
#[utoipa::path(post, path = "/v1/preference-studies", tag = "preference studies", request_body = StartStudy,
    responses(
        (status = 201, body = StudyBody, headers(("location" = String)), description = "Created"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`external_id_taken`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_evaluation`, `missing_field`, `invalid_value`, `out_of_range`"),
    ))]
pub(crate) async fn start_study(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<StartStudy>,
) -> Result<(StatusCode, [(header::HeaderName, HeaderValue); 1], axum::Json<StudyBody>), ApiError> {
    let StartStudy { first, second, pairs, links, metadata, external_id } = body;
    let labels = Labels { metadata: metadata.unwrap_or_default(), external_id };
    let new = NewStudy { sides: [first.into(), second.into()], pairs, links, labels };
    let study = app.start_study(&caller, new).await?;
    let path = format!("/v1/preference-studies/{}", study.study_id);
    Ok((StatusCode::CREATED, location(&path), axum::Json(study.into())))
}

/// Returns a preference study and its results so far.
#[utoipa::path(get, path = "/v1/preference-studies/{study_id}", tag = "preference studies",
    params(("study_id" = StudyId, Path)),
    responses(
        (status = 200, body = StudyBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_study(
    State(app): State<App>,
    caller: Caller,
    Path(study_id): Path<StudyId>,
) -> Result<axum::Json<StudyBody>, ApiError> {
    Ok(axum::Json(app.study(&caller, study_id).await?.into()))
}

/// Lists preference studies, newest first.
#[utoipa::path(get, path = "/v1/preference-studies", tag = "preference studies", params(ListQuery),
    responses((status = 200, body = ListBody<StudyBody>, description = "OK")))]
pub(crate) async fn list_studies(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<List<StudyBody>, ApiError> {
    let page = app.studies(&caller, query.external_id.as_ref(), query.page()?).await?;
    Ok(List::new(page, |study| study.study_id.0, StudyBody::from))
}

/// Changes what you have attached to a preference study.
///
/// What it compares cannot be changed.
#[utoipa::path(patch, path = "/v1/preference-studies/{study_id}", tag = "preference studies",
    request_body = PatchLabels, params(("study_id" = StudyId, Path), IfMatch),
    responses(
        (status = 200, body = StudyBody, description = "As it is after the change"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`external_id_taken`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_field`, `invalid_value`"),
    ))]
pub(crate) async fn patch_study(
    State(app): State<App>,
    caller: Caller,
    Path(study_id): Path<StudyId>,
    precondition: Precondition,
    MergePatch(body): MergePatch<PatchLabels>,
) -> Result<axum::Json<StudyBody>, ApiError> {
    app.relabel(&caller, Labelled::Study(study_id), body.into(), &precondition).await?;
    Ok(axum::Json(app.study(&caller, study_id).await?.into()))
}

/// Deletes a preference study with its links and votes.
#[utoipa::path(delete, path = "/v1/preference-studies/{study_id}", tag = "preference studies",
    params(("study_id" = StudyId, Path), IfMatch),
    responses(
        (status = 200, body = DeletionBody, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn delete_study(
    State(app): State<App>,
    caller: Caller,
    Path(study_id): Path<StudyId>,
    precondition: Precondition,
) -> Result<axum::Json<DeletionBody>, ApiError> {
    let removed = app.delete_study(&caller, study_id, &precondition).await?;
    Ok(DeletionBody::new(study_id, removed))
}

/// Makes further links to a preference study.
#[utoipa::path(post, path = "/v1/preference-studies/{study_id}/links", tag = "preference studies",
    params(("study_id" = StudyId, Path)), request_body = StartLinks,
    responses(
        (status = 200, body = StudyBody, description = "The study with all its links"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`out_of_range`"),
    ))]
pub(crate) async fn add_study_links(
    State(app): State<App>,
    caller: Caller,
    Path(study_id): Path<StudyId>,
    Json(body): Json<StartLinks>,
) -> Result<axum::Json<StudyBody>, ApiError> {
    Ok(axum::Json(app.add_study_links(&caller, study_id, body.links).await?.into()))
}

/// Returns the page on which whoever has the link votes on the next pair.
#[utoipa::path(get, path = "/votes/{token}", tag = "preference studies",
    params(("token" = String, Path, description = "The last part of a study's link")),
    responses(
        (status = 200, content_type = "text/html", body = String, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_ballot(
    State(app): State<App>,
    Path(token): Path<String>,
) -> Result<Response, ApiError> {
    let html = page::html(&app.ballot(&token).await?);
    let mut response = Response::new(html.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Returns an image that the pages of a link show, as PNG.
///
/// A single `Range` is supported, and `If-None-Match`.
#[utoipa::path(get, path = "/votes/{token}/images/{image_id}", tag = "preference studies",
    params(
        ("token" = String, Path, description = "The last part of a study's link"),
        ("image_id" = ImageId, Path, description = "Id of an image that the study shows"),
    ),
    responses(
        (status = 200, content_type = "image/png", body = Vec<u8>, description = "OK"),
        (status = 304, description = "The client has the current file"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_ballot_image(
    State(app): State<App>,
    Path((token, image_id)): Path<(String, ImageId)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (image, file) = app.ballot_image(&token, image_id).await?;
    answer_with_file(&image, file, &headers).await
}

/// Records a vote from the page, and leads to the next pair. The first vote of a link on a pair counts.
#[utoipa::path(post, path = "/votes/{token}", tag = "preference studies",
    params(("token" = String, Path, description = "The last part of a study's link")),
    request_body(content = String, content_type = "application/x-www-form-urlencoded",
        description = "`pair`, and `left` or `right` for each of `text` and `image`"),
    responses(
        (status = 303, headers(("location" = String)), description = "The vote is recorded"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`missing_field`, `invalid_value`, `out_of_range`"),
    ))]
pub(crate) async fn vote(
    State(app): State<App>,
    Path(token): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, [(header::HeaderName, HeaderValue); 1]), ApiError> {
    let body = body.map_err(from_bytes_rejection)?;
    let fields: Vec<(String, String)> = url::form_urlencoded::parse(&body).into_owned().collect();
    let field = |name: &str| {
        let found = fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
        found.ok_or_else(|| {
            FieldError::new(format!("/{name}"), Code::MissingField, format!("`{name}` is missing"))
        })
    };
    let side = |criterion: Criterion| match field(criterion.as_str())? {
        "left" => Ok((criterion, Side::Left)),
        "right" => Ok((criterion, Side::Right)),
        other => {
            let detail = format!("`{other}` is neither left nor right");
            let pointer = format!("/{}", criterion.as_str());
            Err(FieldError::new(pointer, Code::InvalidValue, detail))
        }
    };
    let pair = field("pair")?.parse().map_err(|_| {
        FieldError::new("/pair", Code::InvalidValue, "`pair` is the number of a pair")
    })?;
    let votes = [side(Criterion::Text)?, side(Criterion::Image)?];
    app.vote(&token, pair, votes).await?;
    Ok((StatusCode::SEE_OTHER, location(&page::path(&token))))
}
