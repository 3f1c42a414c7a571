//! What several resources have in common: times, lists and their cursors.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use data_encoding::BASE64URL_NOPAD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::domain::code::Code;
use crate::domain::digest::Digest;
use crate::domain::invalid::FieldError;
use crate::domain::job::JobStatus;
use crate::domain::page::{Order, Page, PageOf};
use crate::domain::record::ExternalId;
use crate::domain::search::SearchText;

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

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = DateTime::parse_from_rfc3339(&text).map_err(|_| {
            D::Error::custom("not a time: write it as in RFC 3339, such as 2026-11-23T12:00:00Z")
        })?;
        Ok(Self(time.to_utc()))
    }
}

/// Declares the parameters of lists: those that all have, and further ones.
macro_rules! list_queries {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(crate) struct $name {
            /// The maximum number of items to return, from 1 to 100. Defaults to 20.
            #[param(minimum = 1, maximum = 100)]
            limit: Option<i64>,
            /// The `next_cursor` of the previous page. Without it, the list starts at its beginning.
            after: Option<String>,
            /// `desc` lists the newest first, `asc` the oldest. Defaults to `desc`.
            #[param(inline)]
            order: Option<Order>,
            /// Return only what was created after this time.
            #[param(value_type = Option<String>, format = DateTime)]
            created_after: Option<Timestamp>,
            /// Return only what was created before this time.
            #[param(value_type = Option<String>, format = DateTime)]
            created_before: Option<Timestamp>,
            $($(#[$field_doc])* pub(crate) $field: $type,)*
        }

        impl $name {
            /// The page that is asked for.
            pub(crate) fn page(&self) -> Result<Page, FieldError> {
                let page = page(self.limit, self.after.as_deref())?;
                Ok(Page {
                    order: self.order.unwrap_or_default(),
                    created_after: self.created_after.map(|time| time.0),
                    created_before: self.created_before.map(|time| time.0),
                    ..page
                })
            }
        }
    )*};
}

list_queries! {
    /// Which items of a list to return.
    ListQuery {
        /// Return only the one with this id of your own.
        external_id: Option<ExternalId>,
    }

    /// Which concepts to return.
    ConceptQuery {
        /// Return only concepts whose handle, modifier token or class noun contains each word of this text, without regard to case.
        /// At most 200 characters.
        #[param(value_type = Option<String>, max_length = 200)]
        q: Option<SearchText>,
        /// Return only the one with this id of your own.
        external_id: Option<ExternalId>,
    }

    /// Which deltas to return.
    DeltaQuery {
        /// Return only deltas that contain this concept, given by id or handle.
        concept: Option<String>,
        /// Return only deltas whose file has this SHA-256, in hex, as a manifest names them.
        #[param(value_type = Option<String>, pattern = "^[0-9A-Fa-f]{64}$")]
        sha256: Option<String>,
        /// Return only the one with this id of your own.
        external_id: Option<ExternalId>,
    }

    /// Which jobs to return.
    JobQuery {
        /// Return only jobs with this status.
        #[param(inline)]
        status: Option<JobStatus>,
        /// Return only jobs that learn this concept or use a delta that contains it. The concept is given by id or handle.
        concept: Option<String>,
        /// Return only the one with this id of your own.
        external_id: Option<ExternalId>,
    }

    /// Which samples to return.
    SampleQuery {
        /// Return only samples with this status.
        #[param(inline)]
        status: Option<JobStatus>,
        /// Return only samples that use a delta which contains this concept. The concept is given by id or handle.
        concept: Option<String>,
        /// Return only samples whose prompt contains each word of this text, without regard to case. At most 200 characters.
        #[param(value_type = Option<String>, max_length = 200)]
        prompt: Option<SearchText>,
        /// Return only samples of this seed, from 0 to 2⁵³ − 1. All images of a sample have its seed.
        #[param(minimum = 0, maximum = 9007199254740991_u64)]
        seed: Option<u64>,
        /// Return only the one with this id of your own.
        external_id: Option<ExternalId>,
    }
}

impl DeltaQuery {
    /// The digest that is looked for.
    pub(crate) fn digest(&self) -> Result<Option<Digest>, FieldError> {
        let parse = |text: &String| {
            Digest::parse(text).ok_or_else(|| {
                let detail = "a SHA-256 has 64 hexadecimal digits: send it whole";
                FieldError::new("sha256", Code::InvalidValue, detail)
            })
        };
        self.sha256.as_ref().map(parse).transpose()
    }
}

/// Which page of a list to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// The maximum number of items to return, from 1 to 100. Defaults to 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// The `next_cursor` of the previous page. Without it, the list starts at its beginning.
    after: Option<String>,
}

impl PageQuery {
    /// The page that is asked for.
    pub(crate) fn page(&self) -> Result<Page, FieldError> {
        page(self.limit, self.after.as_deref())
    }
}

/// The page of a list with these parameters.
pub(crate) fn page(limit: Option<i64>, after: Option<&str>) -> Result<Page, FieldError> {
    let limit = limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(FieldError::new("limit", Code::OutOfRange, "limit is 1 to 100"));
    }
    Ok(Page { after: after.map(decode_cursor).transpose()?, ..Page::newest(limit) })
}

/// One page of a list.
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

/// The answer that is a page of a list. On its way out it gets the header `Link`, with the address of the next page.
#[derive(Debug)]
pub(crate) struct List<T>(ListBody<T>);

impl<T> List<T> {
    /// - `id`: what cursors are made of
    pub(crate) fn new<U>(
        page: PageOf<U>,
        id: impl Fn(&U) -> Uuid,
        body: impl FnMut(U) -> T,
    ) -> Self {
        let PageOf { items, has_more } = page;
        let next_cursor =
            if has_more { items.last().map(|item| encode_cursor(id(item))) } else { None };
        let data = items.into_iter().map(body).collect();
        Self(ListBody { object: "list", data, has_more, next_cursor })
    }
}

/// The cursor of the next page, in the extensions of a response.
#[derive(Clone, Debug)]
struct NextCursor(String);

impl<T: Serialize> IntoResponse for List<T> {
    fn into_response(self) -> Response {
        let next = self.0.next_cursor.clone();
        let mut response = axum::Json(self.0).into_response();
        if let Some(cursor) = next {
            response.extensions_mut().insert(NextCursor(cursor));
        }
        response
    }
}

/// Adds the address of the next page to lists: the same query with another `after`.
pub(crate) async fn with_next_page(request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let mut response = next.run(request).await;
    if let Some(NextCursor(cursor)) = response.extensions_mut().remove() {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let given = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        query.extend_pairs(given.filter(|(name, _)| name != "after"));
        query.append_pair("after", &cursor);
        let link = format!("<{}?{}>; rel=\"next\"", uri.path(), query.finish());
        if let Ok(link) = HeaderValue::try_from(link) {
            response.headers_mut().append(header::LINK, link);
        }
    }
    response
}

/// The first byte of cursors, so that a later format can be distinguished.
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
