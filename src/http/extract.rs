//! Extractors that answer every refusal with a problem.

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use axum::response::Response;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::app::Caller;
use crate::domain::code::Code;
use crate::domain::invalid::FieldError;

/// The largest JSON body.
pub(crate) const MAX_JSON_BYTES: usize = 1024 * 1024;

/// Reads who sends the request.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(_parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        Ok(Self::anonymous())
    }
}

/// A JSON body in which every field is known.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            let detail = "send the body with content-type: application/json".to_owned();
            return Err(ApiError::UnsupportedMediaType(detail));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(from_bytes_rejection)?;
        from_json(&bytes).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next()).map(str::trim);
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
}

pub(super) fn from_bytes_rejection(rejection: BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::BodyTooLarge { limit_bytes: MAX_JSON_BYTES }
    } else {
        ApiError::Malformed("the body ended early".to_owned())
    }
}

/// What nothing can keep: Postgres takes no U+0000 in a text. In JSON it is always an escape.
const NUL: &[u8] = br"\u0000";

/// The pointer of a text in which there is a U+0000.
fn nul_in(value: &serde_json::Value) -> Option<String> {
    use serde_json::Value;

    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| nul_in(item).map(|below| format!("/{index}{below}"))),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let below = if name.contains('\0') { Some(String::new()) } else { nul_in(value) };
            below.map(|below| format!("/{}{below}", escaped(&name.replace('\0', ""))))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn refuse_nul(bytes: &[u8]) -> Result<(), FieldError> {
    if !bytes.windows(NUL.len()).any(|window| window == NUL) {
        return Ok(());
    }
    // What is not JSON is refused as that.
    let value = serde_json::from_slice(bytes).unwrap_or_default();
    match nul_in(&value) {
        None => Ok(()),
        Some(pointer) => {
            let detail = "a text cannot contain the character U+0000: leave it out";
            Err(FieldError::new(pointer, Code::InvalidValue, detail))
        }
    }
}

pub(super) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    use serde_json::error::Category;

    refuse_nul(bytes)?;

    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer_to(error.path());
        match error.inner().classify() {
            Category::Syntax | Category::Eof | Category::Io => {
                ApiError::Malformed(format!("the body is not JSON: {}", error.inner()))
            }
            Category::Data => field_error(&pointer, &error.into_inner().to_string()).into(),
        }
    })?;
    deserializer
        .end()
        .map_err(|error| ApiError::Malformed(format!("the body is not JSON: {error}")))?;
    Ok(value)
}

fn pointer_to(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;

    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", escaped(key))),
            Segment::Enum { variant } => pointer.push_str(&format!("/{}", escaped(variant))),
            Segment::Unknown => {}
        }
    }
    pointer
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Distinguishes what serde only says in words: an unknown field, a missing field, a wrong value.
fn field_error(pointer: &str, message: &str) -> FieldError {
    // The pointer says it better than "… at line 1 column 20".
    let detail = message.rsplit_once(" at line ").map_or(message, |(text, _)| text);
    let detail = &in_words_of_json(detail);
    let name = detail.split('`').nth(1).unwrap_or_default();
    let at = |name: &str| {
        let last = format!("/{}", escaped(name));
        if pointer.ends_with(&last) { pointer.to_owned() } else { format!("{pointer}{last}") }
    };
    if detail.starts_with("unknown field") {
        FieldError::new(at(name), Code::UnknownField, detail)
    } else if detail.starts_with("missing field") {
        FieldError::new(at(name), Code::MissingField, detail)
    } else {
        FieldError::new(pointer, Code::InvalidValue, detail)
    }
}

/// Says what was expected without Rust's names for it.
fn in_words_of_json(detail: &str) -> String {
    let Some((found, expected)) = detail.rsplit_once(", expected ") else {
        return detail.to_owned();
    };
    let expected = match expected {
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not below 0",
        "i32" | "i64" => "a whole number",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}, expected {expected}")
}

/// The parameters in a path; what is not an id of the right kind names nothing, so it is "not found".
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if parts.uri.path().contains("%00") {
            return Err(ApiError::NoRoute(parts.uri.path().to_owned()));
        }
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value))
            .map_err(|_: PathRejection| ApiError::NoRoute(parts.uri.path().to_owned()))
    }
}

/// The query parameters, in which every name is known.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            let detail = "a parameter cannot contain the character U+0000: leave it out";
            return Err(FieldError::new("", Code::InvalidValue, detail).into());
        }
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|axum::extract::Query(value)| Self(value)).map_err(|rejection: QueryRejection| {
            let text = rejection.body_text();
            let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            let (name, message) = match text.split_once(": ") {
                Some((name, message)) if !name.contains(' ') => (name, message),
                Some(_) | None => ("", text),
            };
            field_error(name, message).into()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only its parsing is of interest")]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only its parsing is of interest")]
        steps: usize,
    }

    fn refusal(body: &str) -> (String, Code) {
        let error = from_json::<Outer>(body.as_bytes()).unwrap_err();
        let pointer = error.errors().first().map_or("", |error| &error.pointer);
        (pointer.to_owned(), error.code())
    }

    #[test]
    fn a_refusal_speaks_of_json_and_not_of_rust() {
        let said = |body: &str| {
            from_json::<Outer>(body.as_bytes()).unwrap_err().errors()[0].detail.clone()
        };

        assert_eq!(
            said(r#"{"inner":[{"steps":"many"}]}"#),
            "invalid type: string \"many\", expected a whole number, not below 0"
        );
        assert_eq!(said(r#"{"inner":[3]}"#), "invalid type: integer `3`, expected an object");
        assert_eq!(said(r#"{"inner":3}"#), "invalid type: integer `3`, expected a list");
    }

    #[test]
    fn a_refusal_points_at_the_field() {
        for (body, pointer, code) in [
            (r#"{"inner":[{"steps":1}],"cfg_scale":7}"#, "/cfg_scale", Code::UnknownField),
            (r#"{"inner":[{"steps":1,"cfg":7}]}"#, "/inner/0/cfg", Code::UnknownField),
            (r#"{"inner":[{}]}"#, "/inner/0/steps", Code::MissingField),
            (r#"{"inner":[{"steps":-1}]}"#, "/inner/0/steps", Code::InvalidValue),
            (r#"{"inner":[{"steps":"#, "", Code::MalformedBody),
            (r#"{"inner":[]} trailing"#, "", Code::MalformedBody),
            ("", "", Code::MalformedBody),
            (r#"{"inner":[{"steps":1},{"st\u0000eps":1}]}"#, "/inner/1/steps", Code::InvalidValue),
            (r#"{"inner":[{"steps":"\u0000"}]}"#, "/inner/0/steps", Code::InvalidValue),
            (r#"{"inner":[{"steps":"\\u0000"}]}"#, "/inner/0/steps", Code::InvalidValue),
        ] {
            assert_eq!(refusal(body), (pointer.to_owned(), code), "{body}");
        }
    }
}
