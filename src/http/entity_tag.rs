//! Entity tags and caching, in one place that no handler can forget.
//!
//! An answer about one resource has a `revision`, and its `ETag` is that number: `"37"`. A job that waits changes its place in the
//! queue without a new revision; its tag has both: `"1-4"`. Any other JSON, such as a list, gets a weak tag made of its bytes.

use std::hash::{DefaultHasher, Hasher};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;

use super::gzip::plain_tag;
use super::precondition::{EntityTag, entity_tags};

/// JSON is never larger; what is gets no tag.
const MAX_TAGGED_BYTES: u64 = 8 * 1024 * 1024;

/// Adds `ETag`, `Cache-Control` and `Vary`, and answers 304 to whoever has the answer already.
pub(crate) async fn with_entity_tag(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let known: Vec<HeaderValue> =
        request.headers().get_all(header::IF_NONE_MATCH).iter().cloned().collect();

    let mut response = next.run(request).await;
    if response.status().is_success() && is_json(response.headers()) {
        response = tagged(response, reads).await;
    }
    let caching =
        if reads && response.status().is_success() { "private, no-cache" } else { "no-store" };
    // A 304 of a file changes nothing in what its client has noted.
    let is_file = response.status() == StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    if !is_file {
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static(caching));
    }
    headers.append(header::VARY, HeaderValue::from_static("authorization"));
    if reads && response.status() == StatusCode::OK && is_known(&known, response.headers()) {
        return not_modified(response);
    }
    response
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json")
}

/// Adds the tag that follows from the body.
async fn tagged(response: Response, reads: bool) -> Response {
    let is_small = response.body().size_hint().exact().is_some_and(|size| size <= MAX_TAGGED_BYTES);
    if !is_small || response.headers().contains_key(header::ETAG) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        return Response::from_parts(parts, Body::empty()); // a body in memory does not fail
    };
    let tag = tag_of_revision(&bytes).or_else(|| reads.then(|| tag_of_bytes(&bytes)));
    if let Some(tag) = tag.and_then(|tag| HeaderValue::try_from(tag).ok()) {
        parts.headers.insert(header::ETAG, tag);
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// The strong tag of an answer about one resource.
fn tag_of_revision(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Revised {
        revision: Option<i64>,
        queue: Option<Queue>,
    }
    #[derive(Deserialize)]
    struct Queue {
        position: i64,
    }
    let Revised { revision, queue } = serde_json::from_slice(body).ok()?;
    Some(tag(revision?, queue.map(|queue| queue.position)))
}

/// The strong tag of a resource.
///
/// - `position`: its place in the queue, if it waits
pub(super) fn tag(revision: i64, position: Option<i64>) -> String {
    match position {
        Some(position) => format!("\"{revision}-{position}\""),
        None => format!("\"{revision}\""),
    }
}

fn tag_of_bytes(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    format!("W/\"{:016x}\"", hasher.finish())
}

/// Whether `If-None-Match` names the tag of the answer. The comparison is a weak one.
fn is_known(known: &[HeaderValue], answer: &HeaderMap) -> bool {
    let tag = answer.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let Some(tag) = tag.and_then(opaque) else { return false };
    known.iter().filter_map(|field| entity_tags(field.to_str().ok()?)).flatten().any(|known| {
        match known {
            EntityTag::Any => true,
            EntityTag::Strong(opaque) | EntityTag::Weak(opaque) => plain_tag(opaque) == tag,
        }
    })
}

/// What stands between the quotes of a tag.
fn opaque(tag: &str) -> Option<&str> {
    tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')
}

/// The same answer without what its client has already.
fn not_modified(response: Response) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_changes_with_the_revision_and_with_the_place_in_the_queue() {
        for (body, tag) in [
            (r#"{"id":"trn_1","revision":37,"queue":null}"#, Some("\"37\"")),
            (r#"{"revision":1,"queue":{"position":4},"x":[1]}"#, Some("\"1-4\"")),
            (r#"{"object":"list","data":[{"revision":3}]}"#, None),
            ("[]", None),
        ] {
            assert_eq!(tag_of_revision(body.as_bytes()).as_deref(), tag, "{body}");
        }
        assert_ne!(tag_of_bytes(b"[]"), tag_of_bytes(b"{}"));
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for (tag, known, expected) in [
            ("\"37\"", "\"37\"", true),
            ("\"37\"", "W/\"37\"", true),
            ("\"37\"", "\"37-gzip\"", true),
            ("W/\"ab\"", "\"x\", W/\"ab\"", true),
            ("\"37\"", "*", true),
            ("\"37\"", "\"3\"", false),
            ("\"37\"", "37", false),
        ] {
            let answer = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static(tag))]);
            let known = [HeaderValue::from_static(known)];
            assert_eq!(is_known(&known, &answer), expected, "{tag} {known:?}");
        }
    }
}
