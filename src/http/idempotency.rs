//! `Idempotency-Key`: a request that makes something can be sent again without making it twice.
//!
//! The rules are in [`crate::app::idempotency`]. This layer reads the key and what was sent, and answers a repeated request as the first one
//! was answered.

mod made;

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::{
    ContentBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder, Type,
};

use super::error::{ApiError, Problem};
use super::extract::from_bytes_rejection;
use super::form::{Form, MAX_UPLOAD_BYTES};
use super::openai::{self, ResponseFormat, WantedFormat};
use crate::app::idempotency::{EarlierAnswer, KeyedRequest};
use crate::app::{App, Caller, Refusal};
use crate::domain::code::Code;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The most characters of a key.
const MAX_KEY: usize = 255;

/// Answers are never larger; what is gets no copy.
const MAX_KEPT_BYTES: usize = 8 * 1024 * 1024;

/// Operations in the form of OpenAI's API. Their answers contain images, so they are not kept: a repeated request is answered from its sample.
const OPENAI: &str = "/openai/";

/// Fields that are shown once, and never again.
const SECRETS: [&str; 2] = ["secret", "token"];

/// The operations that make something.
#[derive(Clone)]
pub(super) struct Creating {
    app: App,
    paths: Arc<HashSet<String>>,
}

impl Creating {
    pub(super) fn of(document: &OpenApi, app: App) -> Self {
        let paths = document.paths.paths.iter().filter(|(path, item)| {
            item.post.as_ref().is_some_and(|operation| makes_something(path, operation))
        });
        Self { app, paths: Arc::new(paths.map(|(path, _)| path.clone()).collect()) }
    }
}

fn makes_something(path: &str, operation: &Operation) -> bool {
    let has = |status: &str| operation.responses.responses.contains_key(status);
    // A token for a browser is short-lived and not kept: another one does no harm.
    let is_made_again = path.ends_with("/cancel") || path.ends_with("/client-tokens");
    let makes = has("201") || has("202") || path.ends_with("/links") || path.starts_with(OPENAI);
    makes && !is_made_again
}

/// Adds the header and its refusals to the operations that make something.
pub(super) fn describe(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let Some(operation) = &mut item.post else { continue };
        if !makes_something(path, operation) {
            continue;
        }
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(MAX_KEY));
        let parameter = ParameterBuilder::new()
            .name(IDEMPOTENCY_KEY.as_str())
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .schema(Some(text))
            .description(Some(
                "A text of your choice, 1 to 255 visible characters, that is another one for every thing to make. A request that is \
                 sent again with its key within 24 hours makes nothing: it is answered as before, with `Idempotency-Replayed: true`.",
            ));
        operation.parameters.get_or_insert_default().push(parameter.build().into());
        add_codes(operation, "409", "`idempotency_in_flight`");
        add_codes(operation, "422", "`idempotency_key_reused`");
    }
}

fn add_codes(operation: &mut Operation, status: &str, codes: &str) {
    match operation.responses.responses.get_mut(status) {
        Some(RefOr::T(response)) => {
            response.description = format!("{}, {codes}", response.description);
        }
        Some(RefOr::Ref(_)) => {}
        None => {
            let problem =
                ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let mut response = ResponseBuilder::new()
                .description(codes)
                .content("application/problem+json", problem);
            if status == "409" {
                let seconds = HeaderBuilder::new()
                    .schema(Some(ObjectBuilder::new().schema_type(Type::Integer)));
                response = response.header("retry-after", seconds.build());
            }
            operation.responses.responses.insert(status.to_owned(), response.build().into());
        }
    }
}

/// Serves a request with a key at most once.
pub(super) async fn at_most_once(
    State(creating): State<Creating>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let path =
        path.filter(|path| *request.method() == Method::POST && creating.paths.contains(*path));
    let Some(operation) = path.map(|path| format!("POST {path}")) else {
        return next.run(request).await;
    };
    let key = match key_of(request.headers()) {
        Ok(Some(key)) => key,
        Ok(None) => return next.run(request).await,
        Err(error) => return error.into_response(),
    };
    let (mut parts, body) = request.into_parts();
    let Ok(caller) = Caller::from_request_parts(&mut parts, &creating.app).await else {
        return next.run(Request::from_parts(parts, body)).await; // which is refused there
    };
    let keyed = KeyedRequest::new(&caller, operation, key);
    let target = parts.uri.path_and_query().map_or(parts.uri.path(), |target| target.as_str());
    keyed.add(target.as_bytes());
    let of_openai = parts.uri.path().starts_with(OPENAI).then(|| parts.headers.clone());
    let wanted = WantedFormat::default();
    let served = Served { app: &creating.app, caller, keyed, of_openai, wanted };
    let response = if is_form(&parts.headers) {
        served.form(parts, body, next).await
    } else {
        served.json(parts, body, next).await
    };
    response.unwrap_or_else(ApiError::into_response)
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut fields = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    let key = field.to_str().ok().map(str::trim).filter(|key| {
        (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| (0x20..0x7f).contains(&byte))
    });
    match (key, fields.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("send one key of 1 to {MAX_KEY} visible ASCII characters");
            Err(ApiError::MalformedHeader { name: IDEMPOTENCY_KEY, detail })
        }
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type
        .is_some_and(|text| text.trim_start().to_ascii_lowercase().starts_with("multipart/"))
}

/// A request with a key.
struct Served<'a> {
    app: &'a App,
    caller: Caller,
    keyed: KeyedRequest,
    /// The headers of a request in the form of OpenAI's API.
    of_openai: Option<HeaderMap>,
    /// How such a request wants its images.
    wanted: WantedFormat,
}

/// The field that says how a request in the form of OpenAI's API wants its images.
#[derive(Deserialize)]
struct FormatField {
    response_format: Option<ResponseFormat>,
}

impl Served<'_> {
    async fn json(self, parts: Parts, body: Body, next: Next) -> Result<Response, ApiError> {
        let whole = Request::from_parts(parts.clone(), body);
        let bytes = Bytes::from_request(whole, &()).await.map_err(from_bytes_rejection)?;
        self.keyed.add(&canonical(&bytes));
        let in_flight = self.keyed.begin();
        if let Ok(FormatField { response_format }) = serde_json::from_slice(&bytes) {
            self.wanted.tell(response_format);
        }
        if let Some(answer) = self.earlier().await? {
            return Ok(answer);
        }
        let _in_flight = in_flight?;
        self.run(Request::from_parts(parts, Body::from(bytes)), next).await
    }

    /// A form is read once: by the handler, or, if the key is known already, here.
    async fn form(self, parts: Parts, body: Body, next: Next) -> Result<Response, ApiError> {
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(self.keyed.clone());
        let in_flight = self.keyed.begin();
        if in_flight.is_ok() && !self.app.knows_key(&self.keyed).await? {
            request.extensions_mut().insert(self.wanted.clone());
            return self.run(request, next).await;
        }
        // The limit of the route is set behind this layer.
        DefaultBodyLimit::max(MAX_UPLOAD_BYTES).apply(&mut request);
        let mut form = Form::open(request, "files").await?;
        let mut format = None; // of several, the last counts, as for the handler
        while let Some(mut part) = form.next_part().await? {
            let is_format = part.name() == Some("response_format");
            let mut text = Vec::new();
            while let Some(chunk) = part.chunk().await? {
                if is_format && text.len() < 100 {
                    text.extend_from_slice(&chunk);
                }
            }
            if is_format {
                let text = String::from_utf8_lossy(&text);
                format = serde_json::from_value(text.into()).ok();
            }
        }
        self.wanted.tell(format);
        let answer = self.earlier().await?;
        answer.ok_or_else(|| Refusal::KeyInFlight.into())
    }

    /// Serves the request and keeps the answer, unless it is a refusal.
    async fn run(self, request: Request, next: Next) -> Result<Response, ApiError> {
        let response = self.keyed.clone().serve(next.run(request)).await;
        if !response.status().is_success() {
            let problem = response.extensions().get::<Problem>();
            let was_slower =
                problem.is_some_and(|problem| problem.code() == Code::IdempotencyInFlight);
            let earlier = if was_slower { self.earlier().await? } else { None };
            return Ok(earlier.unwrap_or(response));
        }
        if self.of_openai.is_some() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, MAX_KEPT_BYTES).await;
        let bytes = bytes.map_err(|error| ApiError::Internal(error.into()))?;
        let location = parts.headers.get(header::LOCATION).and_then(|path| path.to_str().ok());
        let kept = without_secrets(&bytes);
        let keeping = self.app.keep_answer(&self.keyed, parts.status.as_u16(), location, &kept);
        if let Err(error) = keeping.await {
            tracing::warn!(%error, "the answer to a request with a key is not kept");
        }
        Ok(Response::from_parts(parts, Body::from(bytes)))
    }

    /// The answer to the same request, if it was made before.
    async fn earlier(&self) -> Result<Option<Response>, ApiError> {
        let mut response = match self.app.earlier_answer(&self.keyed).await? {
            None => return Ok(None),
            Some(EarlierAnswer::Kept { status, location, body }) => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                if let Some(path) = location.and_then(|path| HeaderValue::try_from(path).ok()) {
                    headers.insert(header::LOCATION, path);
                }
                response
            }
            Some(EarlierAnswer::Made(made)) => match &self.of_openai {
                Some(headers) => {
                    let format = self.wanted.get();
                    openai::drawn_before(self.app, &self.caller, headers, format, &made).await?
                }
                None => match made::show(self.app, self.caller, &made).await {
                    Some(response) => response,
                    None => return Ok(None),
                },
            },
        };
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(Some(response))
    }
}

/// JSON without what has no meaning: blanks, and the order of fields.
fn canonical(body: &Bytes) -> Vec<u8> {
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    value.and_then(|value| serde_json::to_vec(&value).ok()).unwrap_or_else(|| body.to_vec())
}

/// An answer without the secrets in it.
fn without_secrets(body: &Bytes) -> Bytes {
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_slice(body) else {
        return body.clone();
    };
    let mut has_any = false;
    for name in SECRETS {
        if let Some(secret) = fields.get_mut(name).filter(|value| value.is_string()) {
            *secret = serde_json::Value::Null;
            has_any = true;
        }
    }
    let without = has_any.then(|| serde_json::to_vec(&fields).ok()).flatten();
    without.map_or_else(|| body.clone(), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_short_text() {
        let read = |fields: &[&str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_str(field).unwrap());
            }
            key_of(&headers).ok()
        };

        assert_eq!(read(&[]), Some(None));
        assert_eq!(read(&["order 7"]), Some(Some("order 7".to_owned())));
        assert_eq!(read(&[&"k".repeat(255)]), Some(Some("k".repeat(255))));
        for wrong in [&[""][..], &[" "], &[&"k".repeat(256)], &["ä"], &["a", "b"]] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_secret_is_not_kept() {
        let body = Bytes::from_static(br#"{"id":"key_1","secret":"s","prefix":"p"}"#);

        assert_eq!(without_secrets(&body), r#"{"id":"key_1","prefix":"p","secret":null}"#);
    }
}
