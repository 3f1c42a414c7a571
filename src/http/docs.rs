//! The documentation: the description for programs, and the same as a page for people.

mod markup;
mod page;

use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::routes::openapi;
use crate::app::App;

/// `/openapi.json` and `/docs`. Neither needs a key, and neither changes while the process runs.
pub(super) fn routes() -> Router<App> {
    Router::new().route("/openapi.json", get(description)).route("/docs", get(documentation))
}

async fn description() -> Response {
    static JSON: LazyLock<Bytes> = LazyLock::new(|| openapi().to_json().unwrap_or_default().into());
    with_type("application/json", &JSON)
}

async fn documentation() -> Response {
    static PAGE: LazyLock<Bytes> = LazyLock::new(|| page::html(openapi().value()).into());
    let mut response = with_type("text/html; charset=utf-8", &PAGE);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn with_type(content_type: &'static str, bytes: &Bytes) -> Response {
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")];
    (headers, bytes.clone()).into_response()
}

/// The page has one style sheet, which is in it, and nothing else: no script, no image, nothing from elsewhere.
fn policy() -> HeaderValue {
    let digest = BASE64.encode(&Sha256::digest(page::STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}
