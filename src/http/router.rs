//! Paths to handlers, and what surrounds every handler.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::TraceLayer;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::entity_tag::with_entity_tag;
use super::error::{ApiError, from_panic, write_problem};
use super::extract::MAX_JSON_BYTES;
use super::form::MAX_UPLOAD_BYTES;
use super::openai::write_openai_error;
use super::patience::with_patience;
use super::{
    capabilities, compression, concept, delta, evaluation, event, health, image, image_set,
    manifest, merge, openai, preference, preview, sample, training, upload,
};
use crate::app::App;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The whole service as one tower service.
pub fn router(app: App) -> Router {
    let (routes, document) = documented_routes().split_for_parts();
    // Compiled in and constant: write it once.
    let document = bytes::Bytes::from(document.to_json().unwrap_or_default());
    let json = [("content-type", "application/json")];
    routes
        .route("/openapi.json", axum::routing::get(async move || (json, document)))
        .fallback(async |uri: Uri| ApiError::NoRoute(uri.path().to_owned()))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
                .layer(PropagateRequestIdLayer::new(REQUEST_ID))
                .layer(TraceLayer::new_for_http())
                .layer(from_fn(write_problem))
                .layer(from_fn(write_openai_error))
                .layer(CatchPanicLayer::custom(from_panic))
                .layer(from_fn_with_state(app.clone(), with_patience))
                .layer(from_fn(with_entity_tag)),
        )
        .with_state(app)
}

/// The largest form of an edit: one image with some room for the other fields.
const MAX_EDIT_BYTES: usize = 24 * 1024 * 1024;

/// The published description of every path.
pub fn openapi() -> OpenApi {
    documented_routes().into_openapi()
}

fn documented_routes() -> OpenApiRouter<App> {
    let info = InfoBuilder::new()
        .title("vstar")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Teaches a text-to-image model your own concepts and generates images of them.\n\n\
             Errors are RFC 9457 problems with a `code`. Lists are sorted from newest to oldest and paged: send the \
             `next_cursor` of one page as `after` to get the next. Trainings, merges, samples, evaluations and compressions are jobs: the response \
             to the request that starts one is sent before the job has run. A response of 503 has the header \
             `Retry-After`, in seconds.",
        ));
    let uploads = OpenApiRouter::new()
        .routes(routes!(upload::upload_images, image::list_concept_images))
        .routes(routes!(upload::upload_image))
        .routes(routes!(image_set::upload_image_set, image_set::list_image_sets))
        .layer(DefaultBodyLimit::max(MAX_UPLOAD_BYTES));
    let edits = OpenApiRouter::new()
        .routes(routes!(openai::edit_images))
        .layer(DefaultBodyLimit::max(MAX_EDIT_BYTES));
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info).build())
        .routes(routes!(concept::create_concept, concept::list_concepts))
        .routes(routes!(concept::get_concept))
        .merge(uploads)
        .merge(edits)
        .routes(routes!(openai::generate_images))
        .routes(routes!(openai::list_models))
        .routes(routes!(openai::get_model))
        .routes(routes!(image::get_image))
        .routes(routes!(image::get_image_content))
        .routes(routes!(manifest::get_manifest))
        .routes(routes!(image_set::get_image_set, image_set::delete_image_set))
        .routes(routes!(image_set::list_set_images))
        .routes(routes!(image_set::get_set_image_content))
        .routes(routes!(image_set::retrieve))
        .routes(routes!(training::start_training, training::list_trainings))
        .routes(routes!(training::get_training))
        .routes(routes!(training::cancel_training))
        .routes(routes!(training::get_training_metrics))
        .routes(routes!(event::stream_training_events))
        .routes(routes!(delta::list_deltas))
        .routes(routes!(delta::get_delta))
        .routes(routes!(delta::get_delta_content))
        .routes(routes!(compression::compress_delta))
        .routes(routes!(compression::list_compressions))
        .routes(routes!(compression::get_compression))
        .routes(routes!(compression::cancel_compression))
        .routes(routes!(event::stream_compression_events))
        .routes(routes!(merge::start_merge, merge::list_merges))
        .routes(routes!(merge::check::check_merge))
        .routes(routes!(merge::get_merge))
        .routes(routes!(merge::cancel_merge))
        .routes(routes!(event::stream_merge_events))
        .routes(routes!(sample::start_sample, sample::list_samples))
        .routes(routes!(sample::get_sample))
        .routes(routes!(sample::cancel_sample))
        .routes(routes!(event::stream_sample_events))
        .routes(routes!(preview::get_preview))
        .routes(routes!(evaluation::start_evaluation, evaluation::list_evaluations))
        .routes(routes!(evaluation::get_evaluation))
        .routes(routes!(evaluation::cancel_evaluation))
        .routes(routes!(event::stream_evaluation_events))
        .routes(routes!(evaluation::list_evaluation_samples))
        .routes(routes!(evaluation::get_evaluation_sheet))
        .routes(routes!(evaluation::get_evaluation_alignment))
        .routes(routes!(evaluation::get_evaluation_losses))
        .routes(routes!(preference::start_study, preference::list_studies))
        .routes(routes!(preference::get_study))
        .routes(routes!(preference::add_study_links))
        .routes(routes!(preference::get_ballot, preference::vote))
        .routes(routes!(capabilities::get_capabilities))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
}
