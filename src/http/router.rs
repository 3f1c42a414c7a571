//! What surrounds every handler.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio::sync::Semaphore;
use tower::ServiceBuilder;
use tower::util::MapRequestLayer;
use tower_http::catch_panic::CatchPanicLayer;

use super::access::observe;
use super::admission::{self, Doors};
use super::body::with_next_page;
use super::docs;
use super::entity_tag::with_entity_tag;
use super::error::{ApiError, from_panic, write_problem};
use super::extract::MAX_JSON_BYTES;
use super::gzip::compressed;
use super::idempotency::{Creating, at_most_once};
use super::openai::write_openai_error;
use super::parameters::{Parameters, refuse_unknown_parameters};
use super::patience::with_patience;
use super::routes::documented_routes;
use super::web;
use crate::app::App;

/// The whole service as one tower service, on a loopback address.
pub fn router(app: App) -> Router {
    router_behind(app, Doors::default())
}

/// The whole service as one tower service.
///
/// - `doors`: from where requests may come
pub fn router_behind(app: App, doors: Doors) -> Router {
    let (routes, document) = documented_routes().split_for_parts();
    let creating = Creating::of(&document, app.clone());
    let parameters = Parameters::of(&document);
    let places = Arc::new(Semaphore::new(doors.max_requests));
    let cors = doors.cors();
    let routes = routes
        .route_layer(from_fn_with_state(creating, at_most_once))
        .route_layer(from_fn_with_state(parameters, refuse_unknown_parameters))
        .merge(docs::routes())
        .merge(web::routes())
        .fallback(async |uri: Uri| ApiError::NoRoute(uri.path().to_owned()))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(
            ServiceBuilder::new()
                .layer(MapRequestLayer::new(admission::take_token_from_query))
                .layer(from_fn(observe))
                .layer(from_fn(compressed))
                .layer(from_fn(write_problem))
                .layer(from_fn(write_openai_error))
                .layer(CatchPanicLayer::custom(from_panic))
                .layer(from_fn_with_state(places, admission::shed_load))
                .layer(from_fn_with_state((app.clone(), doors), admission::guard))
                .layer(from_fn_with_state(app.clone(), with_patience))
                .layer(from_fn_with_state(app.clone(), admission::admit))
                .layer(from_fn(with_entity_tag))
                .layer(from_fn(with_next_page)),
        )
        .with_state(app);
    // Around all others, so that pages can read errors as well.
    match cors {
        Some(cors) => routes.layer(cors),
        None => routes,
    }
}
