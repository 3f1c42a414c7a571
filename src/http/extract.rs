//! Extractors that answer every refusal with a problem.

mod check;
mod pointer;
mod shape;
mod text;

use axum::extract::path::ErrorKind;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;
use utoipa::{IntoParams, ToSchema};

use self::pointer::Pointer;
use self::text::read_json;
use super::error::ApiError;
use crate::app::Caller;
use crate::domain::code::Code;
use crate::domain::invalid::{Checks, FieldError, Invalid, MAX_ERRORS};

/// The largest JSON body.
pub(crate) const MAX_JSON_BYTES: usize = 1024 * 1024;

/// Who sends the request, as `super::admission::admit` has found out.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        let caller = parts.extensions.get::<Self>().copied();
        caller.ok_or_else(|| {
            ApiError::Internal("an operation that needs no key asks who calls".into())
                .into_response()
        })
    }
}

/// A JSON body in which every field is known.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned + ToSchema + 'static, S: Send + Sync> FromRequest<S> for Json<T> {
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

/// Reads a body: its text, its form, and then what it means.
pub(super) fn from_json<T: DeserializeOwned + ToSchema + 'static>(
    bytes: &[u8],
) -> Result<T, ApiError> {
    let mut value = read_json(bytes)?;
    let mut checks = Checks::default();
    shape::of_body::<T>().check(&mut value, &mut Pointer::default(), &mut checks);
    checks.finish()?;
    Ok(from_value(value)?)
}

/// Reads a value of the right shape: what is left to find are texts and numbers of a wrong form.
///
/// Serde stops at the first of them, so its field is taken out, and the rest is read once more.
fn from_value<T: DeserializeOwned>(mut value: Value) -> Result<T, Invalid> {
    let mut errors: Vec<FieldError> = Vec::new();
    loop {
        let read: Result<T, _> = serde_path_to_error::deserialize(&value);
        let failed = match read {
            Ok(read) if errors.is_empty() => return Ok(read),
            Ok(_) => return Err(Invalid(errors)),
            Err(failed) => failed,
        };
        let error = field_error(&Pointer::from(failed.path()), &failed.inner().to_string());
        // A field that was taken out is missed where it was, or by what contains it.
        let is_missed = errors.iter().any(|before| {
            let rest = before.pointer.strip_prefix(&error.pointer);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if !is_missed {
            errors.push(error);
        }
        if errors.len() == MAX_ERRORS || !take_out(&mut value, failed.path()) {
            return Err(Invalid(errors));
        }
    }
}

/// Takes out the innermost field on the way to a value that is there still. Items of lists stay, as others would move up.
fn take_out(value: &mut Value, path: &serde_path_to_error::Path) -> bool {
    let mut names: Vec<&str> = path
        .iter()
        .map_while(|segment| match segment {
            Segment::Map { key } => Some(key.as_str()),
            Segment::Seq { .. } | Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    while let Some(name) = names.pop() {
        let container = names.iter().try_fold(&mut *value, |object, name| object.get_mut(name));
        let object = container.and_then(Value::as_object_mut);
        if object.is_some_and(|object| object.remove(name).is_some()) {
            return true;
        }
    }
    false
}

/// Distinguishes what serde only says in words: an unknown field, a missing field, a wrong value.
fn field_error(pointer: &Pointer, message: &str) -> FieldError {
    let detail = in_words_of_json(message);
    let name = detail.split('`').nth(1).unwrap_or_default();
    let at = |name: &str| {
        let is_there = pointer.as_str().rsplit('/').next() == Some(name);
        if is_there { pointer.as_str().to_owned() } else { pointer.to(name) }
    };
    if detail.starts_with("unknown field") {
        FieldError::new(at(name), Code::UnknownField, detail)
    } else if detail.starts_with("missing field") {
        FieldError::new(at(name), Code::MissingField, detail)
    } else {
        FieldError::new(pointer.as_str(), Code::InvalidValue, detail)
    }
}

/// Says what was expected without Rust's names for it.
fn in_words_of_json(detail: &str) -> String {
    let detail = detail.replace("unknown variant", "unknown value");
    let Some((found, expected)) = detail.rsplit_once(", expected ") else {
        return detail;
    };
    let expected = match expected {
        "f32" | "f64" => "a number",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, not below 0",
        "i32" => "a whole number from −2147483648 to 2147483647",
        "i64" => "a whole number from −2⁶³ to 2⁶³ − 1",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}, expected {expected}")
}

/// The parameters in a path. What is not an id of the right kind names nothing, so it is "not found".
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if parts.uri.path().contains("%00") {
            return Err(ApiError::NotFound("no path contains the character U+0000".to_owned()));
        }
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value)).map_err(|rejection| {
            let PathRejection::FailedToDeserializePathParams(failed) = rejection else {
                return ApiError::NoRoute(parts.uri.path().to_owned());
            };
            ApiError::NotFound(match failed.into_kind() {
                ErrorKind::Message(message) | ErrorKind::DeserializeError { message, .. } => {
                    message
                }
                ErrorKind::ParseErrorAtKey { value, .. }
                | ErrorKind::ParseErrorAtIndex { value, .. }
                | ErrorKind::ParseError { value, .. } => {
                    format!("there is no number `{value}` here")
                }
                other => other.to_string(),
            })
        })
    }
}

/// The query parameters of a handler. Names that its operation does not have are refused before: see
/// [`refuse_unknown_parameters`](super::parameters::refuse_unknown_parameters).
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + IntoParams + 'static, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(Self(from_query(parts.uri.query().unwrap_or_default())?))
    }
}

fn from_query<T: DeserializeOwned + IntoParams + 'static>(query: &str) -> Result<T, Invalid> {
    let shape = shape::of_query::<T>();
    let given = url::form_urlencoded::parse(query.as_bytes());
    let mut value = shape.of_parameters(given);
    let mut checks = Checks::default();
    shape.check(&mut value, &mut Pointer::default(), &mut checks);
    checks.finish().and_then(|()| from_value(value)).map_err(|Invalid(errors)| {
        // A parameter is named, not pointed at.
        let named = errors.into_iter().map(|error| FieldError {
            pointer: error.pointer.trim_start_matches('/').to_owned(),
            ..error
        });
        Invalid(named.collect())
    })
}

#[cfg(test)]
mod tests;
