//! What several resources have in common: times, lists and their cursors.

use axum::http::{HeaderName, HeaderValue, header};
use chrono::{DateTime, SecondsFormat, Utc};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::domain::code::Code;
use crate::domain::invalid::FieldError;
use crate::domain::page::{Page, PageOf};

/// A time in UTC, to the millisecond.
#[derive(Clone, Copy, Debug, ToSchema)]
#[schema(value_type = String, format = DateTime, examples("2026-11-23T12:00:00.000Z"))]
pub(crate) struct Timestamp(pub(crate) DateTime<Utc>);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time)
    }
}

/// Which page of a list to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// The maximum number of items to return, from 1 to 100. Defaults to 20.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: i64,
    /// The `next_cursor` of the previous page. Without it, the list starts with the newest item.
    after: Option<String>,
}

pub(crate) fn default_limit() -> i64 {
    20
}

impl ListQuery {
    /// The page that is asked for.
    pub(crate) fn page(&self) -> Result<Page, FieldError> {
        page(self.limit, self.after.as_deref())
    }
}

/// The page of a resource whose query has further parameters.
pub(crate) fn page(limit: i64, after: Option<&str>) -> Result<Page, FieldError> {
    if !(1..=100).contains(&limit) {
        return Err(FieldError::new("limit", Code::OutOfRange, "limit is 1 to 100"));
    }
    Ok(Page { before: after.map(decode_cursor).transpose()?, limit })
}

/// One page of a list, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListBody<T> {
    #[schema(value_type = String, examples("list"))]
    object: &'static str,
    /// The items of this page.
    data: Vec<T>,
    /// Whether there are further items.
    has_more: bool,
    /// Send this as `after` to get the next page. Null on the last page.
    next_cursor: Option<String>,
}

impl<T> ListBody<T> {
    pub(crate) fn new<U>(
        page: PageOf<U>,
        id: impl Fn(&U) -> Uuid,
        body: impl FnMut(U) -> T,
    ) -> Self {
        let PageOf { items, has_more } = page;
        let next_cursor =
            if has_more { items.last().map(|item| encode_cursor(id(item))) } else { None };
        let data = items.into_iter().map(body).collect();
        Self { object: "list", data, has_more, next_cursor }
    }
}

/// What cursors start with, so that a later form can be told from this one.
const CURSOR_VERSION: u8 = 1;

fn encode_cursor(id: Uuid) -> String {
    let mut bytes = vec![CURSOR_VERSION];
    bytes.extend_from_slice(id.as_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

fn decode_cursor(text: &str) -> Result<Uuid, FieldError> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).unwrap_or_default();
    match bytes.split_first() {
        Some((&CURSOR_VERSION, id)) => Uuid::from_slice(id).ok(),
        Some(_) | None => None,
    }
    .ok_or_else(|| {
        FieldError::new(
            "after",
            Code::InvalidCursor,
            "`after` is the next_cursor of a list of this kind",
        )
    })
}

/// `Location` of what was made.
pub(crate) fn location(path: &str) -> [(HeaderName, HeaderValue); 1] {
    // Paths are made of our own ids.
    [(header::LOCATION, HeaderValue::try_from(path).unwrap_or(HeaderValue::from_static("/")))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_and_anything_else_is_refused() {
        let id = Uuid::now_v7();

        assert_eq!(decode_cursor(&encode_cursor(id)).unwrap(), id);
        for text in
            ["", "x", "AAAA", &BASE64URL_NOPAD.encode(&[1; 16]), &BASE64URL_NOPAD.encode(&[2; 17])]
        {
            assert!(decode_cursor(text).is_err(), "{text}");
        }
    }
}
