//! What a request has made, as it is now: the answer to a repeated request if the first one was not kept.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::app::{App, Caller};
use crate::domain::id::ImageId;
use crate::http::extract::{Path, Query};
use crate::http::job::WaitQuery;
use crate::http::{
    api_key, compression, concept, evaluation, image, image_set, merge, preference,
    presigned_upload, project, sample, training, upload, webhook,
};

/// Answers with what was made; `None` for what is of no kind that is known here.
///
/// - `made`: a published id, or those of several photos with a comma after each
pub(super) async fn show(app: &App, caller: Caller, made: &str) -> Option<Response> {
    if let Some(photos) = made.strip_suffix(',') {
        let photos: Vec<ImageId> = photos.split(',').filter_map(|id| id.parse().ok()).collect();
        return Some(upload::show_added(app, &caller, &photos).await.into_response());
    }
    let state = || State(app.clone());
    let now = || Query(WaitQuery::default());
    let name = || Path(made.to_owned());
    /// The path parameter of a handler that takes an id.
    macro_rules! id {
        () => {
            Path(made.parse().ok()?)
        };
    }
    let (collection, mut response) = match made.split_once('_')?.0 {
        "trn" => {
            let training = training::get_training(state(), caller, id!(), now()).await;
            ("trainings", training.into_response())
        }
        "mrg" => ("merges", merge::get_merge(state(), caller, id!(), now()).await.into_response()),
        "smp" => {
            ("samples", sample::get_sample(state(), caller, id!(), now()).await.into_response())
        }
        "evl" => {
            let evaluation = evaluation::get_evaluation(state(), caller, id!(), now()).await;
            ("evaluations", evaluation.into_response())
        }
        "cmp" => {
            let compression = compression::get_compression(state(), caller, id!(), now()).await;
            ("compressions", compression.into_response())
        }
        "cpt" => ("concepts", concept::get_concept(state(), caller, name()).await.into_response()),
        "img" => ("images", image::get_image(state(), caller, id!()).await.into_response()),
        "set" => {
            ("image-sets", image_set::get_image_set(state(), caller, name()).await.into_response())
        }
        "pst" => {
            let study = preference::get_study(state(), caller, id!()).await;
            ("preference-studies", study.into_response())
        }
        "upl" => {
            let upload = presigned_upload::get_upload(state(), caller, id!()).await;
            ("uploads", upload.into_response())
        }
        "whe" => {
            let endpoint = webhook::get_webhook_endpoint(state(), caller, id!()).await;
            ("webhook-endpoints", endpoint.into_response())
        }
        "whd" => {
            let delivery = made.parse().ok()?;
            return webhook::delivery::queued_before(app, &caller, delivery).await.ok();
        }
        "key" => ("api-keys", api_key::get_api_key(state(), caller, id!()).await.into_response()),
        "prj" => ("projects", project::get_project(state(), caller, id!()).await.into_response()),
        _ => return None,
    };
    if response.status().is_success() {
        let goes_on = response.headers().contains_key(header::RETRY_AFTER);
        *response.status_mut() = if goes_on { StatusCode::ACCEPTED } else { StatusCode::CREATED };
        let path = HeaderValue::try_from(format!("/v1/{collection}/{made}")).ok()?;
        response.headers_mut().insert(header::LOCATION, path);
    }
    Some(response)
}
