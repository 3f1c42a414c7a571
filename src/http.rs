//! Requests in, responses out: one file per resource.
//!
//! A handler parses the request, calls one verb of [`App`](crate::app::App) and writes the response. It decides nothing
//! by itself: the rules are in `app` and `domain`. Its doc comment is the published text of the operation.

mod access;
mod admission;
mod api_key;
mod body;
mod capabilities;
mod client_token;
mod compression;
mod concept;
mod content;
mod delta;
mod docs;
mod dry_run;
mod entity_tag;
mod error;
mod evaluation;
mod event;
mod extract;
mod file;
mod form;
mod gzip;
mod health;
mod idempotency;
mod image;
mod image_set;
mod job;
mod manifest;
mod me;
mod merge;
mod metrics;
mod openai;
mod openapi;
mod parameters;
mod patience;
mod photo;
mod precondition;
mod preference;
mod presigned_upload;
mod preview;
mod project;
mod promotion;
mod record;
mod regularization;
mod router;
mod routes;
mod sample;
mod training;
mod training_preview;
mod upload;
mod web;
mod webhook;

pub use admission::Doors;
pub use form::read_form;
pub use metrics::metrics_router;
pub use openapi::Document;
pub use patience::CLOSING_LIMIT;
pub use router::{router, router_behind};
pub use routes::openapi;
