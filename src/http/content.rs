//! Bytes of an object as a response: validators and ranges.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::error::ApiError;

/// What is sent, and how it is called.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    pub(crate) bytes: Bytes,
    pub(crate) content_type: &'static str,
    /// The entity tag, without quotes: the SHA-256 of the bytes, or what else tells them apart.
    pub(crate) entity_tag: &'a str,
    pub(crate) file_name: &'a str,
}

/// Whether the client has these bytes already.
pub(crate) fn is_current(headers: &HeaderMap, entity_tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    known.is_some_and(|known| known.trim() == "*" || known.contains(&format!("\"{entity_tag}\"")))
}

/// 304: nothing has changed, as objects never do.
pub(crate) fn not_modified(entity_tag: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(header::ETAG, quoted(entity_tag));
    response
}

impl Content<'_> {
    /// The whole, or the one range that is asked for.
    pub(crate) fn into_response(self, headers: &HeaderMap) -> Result<Response, ApiError> {
        let size = self.bytes.len();
        let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let (status, bytes, content_range) = match range.and_then(|range| single_range(range, size))
        {
            None => (StatusCode::OK, self.bytes, None),
            Some(range) if range.is_empty() => {
                return Err(ApiError::RangeNotSatisfiable { size_bytes: size });
            }
            Some(range) => {
                let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                (StatusCode::PARTIAL_CONTENT, self.bytes.slice(range), Some(text))
            }
        };
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::ETAG, quoted(self.entity_tag));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, max-age=31536000, immutable"),
        );
        let disposition = format!("inline; filename=\"{}\"", self.file_name);
        if let Ok(value) = HeaderValue::try_from(disposition) {
            headers.insert(header::CONTENT_DISPOSITION, value);
        }
        if let Some(value) = content_range.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(header::CONTENT_RANGE, value);
        }
        Ok(response)
    }
}

fn quoted(entity_tag: &str) -> HeaderValue {
    HeaderValue::try_from(format!("\"{entity_tag}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Reads `bytes=a-b`, `bytes=a-` or `bytes=-n`; anything else, such as several ranges, means the whole. An empty
/// result cannot be satisfied.
fn single_range(text: &str, size: usize) -> Option<std::ops::Range<usize>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    match (first, last) {
        ("", last) => Some(size.saturating_sub(last.parse().ok()?)..size),
        (first, "") => {
            let first: usize = first.parse().ok()?;
            Some(first.min(size)..size)
        }
        (first, last) => {
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then(|| first.min(size)..last.saturating_add(1).min(size))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_what_is_there() {
        for (text, range) in [
            ("bytes=0-3", Some(0..4)),
            ("bytes=8-99", Some(8..10)),
            ("bytes=4-", Some(4..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-99", Some(0..10)),
            ("bytes=10-12", Some(10..10)),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(single_range(text, 10), range, "{text}");
        }
    }
}
