//! What several resources have in common: times, lists and their cursors.

use axum::http::{HeaderName, HeaderValue, header};
use chrono::{DateTime, SecondsFormat, Utc};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::error::ApiError;
use crate::db::Page;
use crate::domain::code::Code;
use crate::domain::invalid::FieldError;

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

/// Which stretch of a list to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// At most so many, 1 to 100.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: i64,
    /// The `next_cursor` of the page before.
    after: Option<String>,
}

fn default_limit() -> i64 {
    20
}

impl ListQuery {
    /// The same question from a resource that has further parameters.
    pub(crate) fn new(limit: Option<i64>, after: Option<String>) -> Self {
        Self { limit: limit.unwrap_or_else(default_limit), after }
    }

    /// The page that is asked for and one more row, by which a list knows whether it goes on.
    pub(crate) fn page(&self) -> Result<Page, ApiError> {
        if !(1..=100).contains(&self.limit) {
            return Err(FieldError::new("limit", Code::OutOfRange, "limit is 1 to 100").into());
        }
        let before = self.after.as_deref().map(decode_cursor).transpose()?;
        Ok(Page { before, limit: self.limit + 1 })
    }
}

/// One stretch of a list, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListBody<T> {
    #[schema(value_type = String, examples("list"))]
    object: &'static str,
    data: Vec<T>,
    has_more: bool,
    /// Give this as `after` to go on.
    next_cursor: Option<String>,
}

impl<T> ListBody<T> {
    /// Cuts the row too many, and turns the rest into bodies.
    pub(crate) fn new<R>(
        mut rows: Vec<R>,
        query: &ListQuery,
        id: impl Fn(&R) -> Uuid,
        body: impl FnMut(R) -> T,
    ) -> Self {
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor =
            if has_more { rows.last().map(|row| encode_cursor(id(row))) } else { None };
        Self { object: "list", data: rows.into_iter().map(body).collect(), has_more, next_cursor }
    }
}

impl<T, E> ListBody<Result<T, E>> {
    /// The list if all its bodies could be made.
    pub(crate) fn transpose(self) -> Result<ListBody<T>, E> {
        let Self { object, data, has_more, next_cursor } = self;
        Ok(ListBody {
            object,
            data: data.into_iter().collect::<Result<_, E>>()?,
            has_more,
            next_cursor,
        })
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
