//! Paths to handlers.

use std::sync::LazyLock;

use axum::extract::DefaultBodyLimit;
use utoipa::openapi::{InfoBuilder, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admission;
use super::form::MAX_UPLOAD_BYTES;
use super::job::edit;
use super::openapi::Document;
use super::{
    api_key, capabilities, client_token, compression, concept, delta, evaluation, event, health,
    idempotency, image, image_set, manifest, me, merge, metrics, openai, photo, preference,
    presigned_upload, preview, project, promotion, sample, training, training_preview, upload,
    webhook,
};
use crate::app::App;

/// The largest form of an edit: one image with some room for the other fields.
const MAX_EDIT_BYTES: usize = 24 * 1024 * 1024;
/// The published description of every path.
pub fn openapi() -> &'static Document {
    static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
        let mut document = documented_routes().into_openapi();
        idempotency::describe(&mut document);
        admission::describe(&mut document);
        Document::of(&document)
    });
    &DOCUMENT
}

/// Every documented path with its handlers.
pub(super) fn documented_routes() -> OpenApiRouter<App> {
    let info = InfoBuilder::new()
        .title("vstar")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Teaches a text-to-image model your own concepts and generates images of them.\n\n\
             Errors are RFC 9457 problems with a `code`. Lists are paged, the newest first unless `order` is `asc`: send the \
             `next_cursor` of one page as `after` to get the next, or follow the `Link` header. Trainings, merges, samples, evaluations and compressions are jobs: the response \
             to the request that starts one is sent before the job has run. A response of 503 has the header \
             `Retry-After`, in seconds.",
        ));
    let uploads = OpenApiRouter::new()
        .routes(routes!(upload::upload_images, image::list_concept_images))
        .routes(routes!(upload::upload_image))
        .routes(routes!(presigned_upload::put_upload))
        .routes(routes!(photo::set_mask, photo::delete_mask, photo::get_mask))
        .routes(routes!(image_set::upload_image_set, image_set::list_image_sets))
        .layer(DefaultBodyLimit::max(MAX_UPLOAD_BYTES));
    let edits = OpenApiRouter::new()
        .routes(routes!(openai::edit_images))
        .layer(DefaultBodyLimit::max(MAX_EDIT_BYTES));
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info).build())
        .routes(routes!(concept::create_concept, concept::list_concepts))
        .routes(routes!(concept::get_concept, concept::patch_concept, concept::delete_concept))
        .routes(routes!(promotion::promote))
        .routes(routes!(promotion::roll_back))
        .routes(routes!(promotion::list_promotions))
        .routes(routes!(photo::change_photo, image::delete_concept_image))
        .merge(uploads)
        .merge(edits)
        .routes(routes!(openai::generate_images))
        .routes(routes!(openai::list_models))
        .routes(routes!(openai::get_model))
        .routes(routes!(presigned_upload::announce_upload))
        .routes(routes!(presigned_upload::get_upload))
        .routes(routes!(presigned_upload::complete_upload))
        .routes(routes!(photo::check_photos, photo::get_photo_check))
        .routes(routes!(image::get_image, image::patch_image, image::delete_image))
        .routes(routes!(image::get_image_content))
        .routes(routes!(manifest::get_manifest))
        .routes(routes!(
            image_set::get_image_set,
            image_set::patch_image_set,
            image_set::delete_image_set
        ))
        .routes(routes!(image_set::list_set_images))
        .routes(routes!(image_set::get_set_image_content))
        .routes(routes!(image_set::retrieve))
        .routes(routes!(training::start_training, training::list_trainings))
        .routes(routes!(training::get_training, edit::patch_training, edit::delete_training))
        .routes(routes!(training::cancel_training))
        .routes(routes!(training::get_training_metrics))
        .routes(routes!(training_preview::list_training_previews))
        .routes(routes!(training_preview::get_training_preview))
        .routes(routes!(event::stream_training_events))
        .routes(routes!(delta::list_deltas))
        .routes(routes!(delta::get_delta, delta::patch_delta, delta::delete_delta))
        .routes(routes!(delta::get_delta_content))
        .routes(routes!(compression::compress_delta))
        .routes(routes!(compression::list_compressions))
        .routes(routes!(
            compression::get_compression,
            edit::patch_compression,
            edit::delete_compression
        ))
        .routes(routes!(compression::cancel_compression))
        .routes(routes!(event::stream_compression_events))
        .routes(routes!(merge::start_merge, merge::list_merges))
        .routes(routes!(merge::check::check_merge))
        .routes(routes!(merge::get_merge, edit::patch_merge, edit::delete_merge))
        .routes(routes!(merge::cancel_merge))
        .routes(routes!(event::stream_merge_events))
        .routes(routes!(sample::start_sample, sample::list_samples))
        .routes(routes!(sample::get_sample, edit::patch_sample, edit::delete_sample))
        .routes(routes!(sample::cancel_sample))
        .routes(routes!(event::stream_sample_events))
        .routes(routes!(preview::get_preview))
        .routes(routes!(evaluation::start_evaluation, evaluation::list_evaluations))
        .routes(routes!(
            evaluation::get_evaluation,
            edit::patch_evaluation,
            edit::delete_evaluation
        ))
        .routes(routes!(evaluation::cancel_evaluation))
        .routes(routes!(event::stream_evaluation_events))
        .routes(routes!(evaluation::list_evaluation_samples))
        .routes(routes!(evaluation::get_evaluation_sheet))
        .routes(routes!(evaluation::get_evaluation_alignment))
        .routes(routes!(evaluation::get_evaluation_losses))
        .routes(routes!(preference::start_study, preference::list_studies))
        .routes(routes!(preference::get_study, preference::patch_study, preference::delete_study))
        .routes(routes!(preference::add_study_links))
        .routes(routes!(preference::get_ballot, preference::vote))
        .routes(routes!(preference::get_ballot_image))
        .routes(routes!(webhook::create_webhook_endpoint, webhook::list_webhook_endpoints))
        .routes(routes!(
            webhook::get_webhook_endpoint,
            webhook::change_webhook_endpoint,
            webhook::delete_webhook_endpoint
        ))
        .routes(routes!(webhook::rotate_webhook_secret))
        .routes(routes!(webhook::delivery::test_webhook))
        .routes(routes!(webhook::delivery::list_webhook_deliveries))
        .routes(routes!(webhook::delivery::get_webhook_delivery))
        .routes(routes!(webhook::delivery::redeliver_webhook))
        .routes(routes!(me::get_me))
        .routes(routes!(me::get_usage))
        .routes(routes!(me::list_changes))
        .routes(routes!(project::create_project, project::list_projects))
        .routes(routes!(project::get_project, project::change_project))
        .routes(routes!(api_key::create_api_key, api_key::list_api_keys))
        .routes(routes!(api_key::get_api_key, api_key::delete_api_key))
        .routes(routes!(api_key::rotate_api_key))
        .routes(routes!(client_token::create_client_token))
        .routes(routes!(capabilities::get_capabilities))
        .routes(routes!(metrics::metrics))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
}
