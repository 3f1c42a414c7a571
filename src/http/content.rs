//! Bytes of an object as a response: validators and ranges.

use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::error::ApiError;
use crate::app::download::Downloadable;

/// What is sent, and how it is called.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    pub(crate) content_type: &'static str,
    /// The entity tag, without quotes: the SHA-256 of the bytes, or another value that identifies them.
    pub(crate) entity_tag: &'a str,
    pub(crate) file_name: &'a str,
}

/// Whether the client has these bytes already.
pub(crate) fn is_current(headers: &HeaderMap, entity_tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    known.is_some_and(|known| known.trim() == "*" || known.contains(&format!("\"{entity_tag}\"")))
}

/// 304, since objects never change.
pub(crate) fn not_modified(entity_tag: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(header::ETAG, quoted(entity_tag));
    response
}

impl Content<'_> {
    /// The whole file, or the one range that is asked for. No more than that is read.
    pub(crate) async fn download(
        self,
        file: Downloadable,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        let size = file.size_bytes();
        let wanted = Wanted::of(headers, size)?;
        let bytes = Body::from_stream(file.open(wanted.range(size)).await?);
        Ok(self.response(bytes, &wanted, size))
    }

    /// The same for bytes that are in memory.
    pub(crate) fn into_response(
        self,
        bytes: Bytes,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        let size = bytes.len() as u64;
        let wanted = Wanted::of(headers, size)?;
        let range = wanted.range(size);
        let bytes = bytes.slice(range.start as usize..range.end as usize);
        Ok(self.response(Body::from(bytes), &wanted, size))
    }

    fn response(self, bytes: Body, wanted: &Wanted, size: u64) -> Response {
        let mut response = Response::new(bytes);
        *response.status_mut() = match wanted {
            Wanted::All => StatusCode::OK,
            Wanted::Part(_) => StatusCode::PARTIAL_CONTENT,
        };
        let headers = response.headers_mut();
        let range = wanted.range(size);
        headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
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
        if let Wanted::Part(range) = wanted {
            let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(header::CONTENT_RANGE, value);
            }
        }
        response
    }
}

/// How much of a file a request asks for.
enum Wanted {
    All,
    /// Never empty.
    Part(Range<u64>),
}

impl Wanted {
    fn of(headers: &HeaderMap, size: u64) -> Result<Self, ApiError> {
        let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        match range.and_then(|range| single_range(range, size)) {
            None => Ok(Self::All),
            Some(range) if range.is_empty() => {
                Err(ApiError::RangeNotSatisfiable { size_bytes: size })
            }
            Some(range) => Ok(Self::Part(range)),
        }
    }

    fn range(&self, size: u64) -> Range<u64> {
        match self {
            Self::All => 0..size,
            Self::Part(range) => range.clone(),
        }
    }
}

fn quoted(entity_tag: &str) -> HeaderValue {
    HeaderValue::try_from(format!("\"{entity_tag}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Reads `bytes=a-b`, `bytes=a-` or `bytes=-n`; anything else, such as several ranges, means the whole. An empty
/// result cannot be satisfied.
fn single_range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    match (first, last) {
        ("", last) => Some(size.saturating_sub(last.parse().ok()?)..size),
        (first, "") => {
            let first: u64 = first.parse().ok()?;
            Some(first.min(size)..size)
        }
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
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
