//! Answers in gzip, for clients that take it: JSON and text above a kilobyte. Images, weights, ranges and streams of events are left as
//! they are.
//!
//! A layer of our own, for all bodies that are worth it are whole in memory: they keep their `Content-Length`, and a client that
//! takes neither gzip nor a plain answer gets the plain one. tower-http answers it with 406, after its request has been served.

use std::io::Write;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// Smaller answers fit into a packet or two as they are.
const LEAST_BYTES: u64 = 1024;
/// Larger answers are left as they are.
const MOST_BYTES: u64 = 16 << 20;
/// Above so many bytes, compressing takes longer than a task may keep its thread.
const LONG_BYTES: usize = 64 << 10;
/// What the tag of a compressed answer ends with: other bytes have another strong tag.
const TAG_SUFFIX: &str = "-gzip";

/// What answers vary by.
const ACCEPT_ENCODING: &str = "accept-encoding";
/// Operations whose JSON is mostly images in base64, which gzip makes hardly any smaller.
const IMAGES: &str = "/openai/v1/images/";

/// Compresses answers for clients that take gzip.
pub(crate) async fn compressed(request: Request, next: Next) -> Response {
    let is_taken = takes_gzip(request.headers());
    let has_compressed = is_taken && names_compressed(request.headers());
    let is_images = request.uri().path().starts_with(IMAGES);
    let mut response = next.run(request).await;
    // It has no type that would tell whether the answer it stands for varies, so it says so in any case.
    if response.status() == StatusCode::NOT_MODIFIED {
        if has_compressed {
            mark_tag(response.headers_mut());
        }
        vary(response.headers_mut());
    }
    if is_images || !is_compressible(response.headers()) {
        return response;
    }
    vary(response.headers_mut());
    let size = response.body().size_hint().exact().unwrap_or(0);
    if !is_taken || !(LEAST_BYTES..=MOST_BYTES).contains(&size) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(plain) = axum::body::to_bytes(body, usize::MAX).await else {
        return Response::from_parts(parts, Body::empty()); // a body in memory does not fail
    };
    let Some(gzipped) = gzip(plain.clone()).await else {
        return Response::from_parts(parts, Body::from(plain));
    };
    mark_tag(&mut parts.headers);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.remove(header::ACCEPT_RANGES);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(gzipped))
}

/// Says that the answer depends on what encodings the client takes.
fn vary(headers: &mut HeaderMap) {
    if !headers.get_all(header::VARY).iter().any(|value| value == ACCEPT_ENCODING) {
        headers.append(header::VARY, HeaderValue::from_static(ACCEPT_ENCODING));
    }
}

/// The tag of the plain answer, without what says that it was compressed.
pub(super) fn plain_tag(opaque: &str) -> &str {
    opaque.strip_suffix(TAG_SUFFIX).unwrap_or(opaque)
}

/// Whether the client takes gzip: it is named, or `*` is, and its weight is not 0.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::ACCEPT_ENCODING).iter();
    let codings = fields.filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(','));
    let mut any = false;
    for coding in codings {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let is_taken = weight
            .trim()
            .strip_prefix("q=")
            .is_none_or(|weight| weight.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0));
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") => return is_taken,
            "*" => any = is_taken,
            _ => {}
        }
    }
    any
}

/// Whether `If-None-Match` has the tag of a compressed answer.
fn names_compressed(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(header::IF_NONE_MATCH).iter();
    fields.any(|field| field.to_str().is_ok_and(|field| field.contains("-gzip\"")))
}

fn is_compressible(headers: &HeaderMap) -> bool {
    const WITHOUT: [HeaderName; 2] = [header::CONTENT_ENCODING, header::CONTENT_RANGE];
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next()).map_or("", str::trim);
    let is_text = matches!(
        essence,
        "application/json"
            | "application/problem+json"
            | "text/html"
            | "text/javascript"
            | "text/plain"
    );
    is_text && !WITHOUT.iter().any(|name| headers.contains_key(name))
}

/// Gives the compressed form of an answer a strong tag of its own. A weak tag is the same for both.
fn mark_tag(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()) else { return };
    let opaque = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let marked = opaque.map(|opaque| format!("\"{opaque}{TAG_SUFFIX}\""));
    if let Some(tag) = marked.and_then(|tag| HeaderValue::try_from(tag).ok()) {
        headers.insert(header::ETAG, tag);
    }
}

/// `None` if it cannot be done, or makes nothing smaller.
async fn gzip(plain: Bytes) -> Option<Bytes> {
    let size = plain.len();
    let gzipped = match size > LONG_BYTES {
        true => tokio::task::spawn_blocking(move || gzip_now(&plain)).await.ok()?,
        false => gzip_now(&plain),
    };
    gzipped.filter(|bytes| bytes.len() < size)
}

fn gzip_now(plain: &[u8]) -> Option<Bytes> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    gzip.write_all(plain).and_then(|()| gzip.finish()).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        for (field, expected) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, gzip;q=0.8", true),
            ("GZIP", true),
            ("*", true),
            ("*;q=0.1, gzip;q=0", false),
            ("gzip;q=0.0", false),
            ("br", false),
            ("", false),
        ] {
            let field = [(header::ACCEPT_ENCODING, HeaderValue::from_static(field))];
            assert_eq!(takes_gzip(&HeaderMap::from_iter(field.clone())), expected, "{field:?}");
        }
    }

    #[test]
    fn a_strong_tag_says_that_the_answer_is_compressed() {
        for (tag, marked) in
            [("\"37\"", "\"37-gzip\""), ("\"1-4\"", "\"1-4-gzip\""), ("W/\"ab\"", "W/\"ab\"")]
        {
            let mut headers = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static(tag))]);
            mark_tag(&mut headers);
            assert_eq!(headers[header::ETAG], marked);
        }
        assert_eq!(plain_tag("37-gzip"), "37");
        assert_eq!(plain_tag("1-4"), "1-4");
    }
}
