//! What surrounds every request: its id, its span in the log, a line when it has been answered, and its metrics.

use std::time::Instant;

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::request_id::RequestId;
use tracing::Instrument;

use crate::counters::REQUESTS;
use crate::request_context::{RequestContext, is_traceparent, trace_id};
use crate::telemetry::{join_trace, traceparent_of};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The most characters of a request's id.
const MAX_ID_CHARS: usize = 128;
/// The route of a path that no operation has.
const NO_ROUTE: &str = "none";
/// Routes that are asked for all the time by programs that watch.
const WATCHED: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Serves a request in a span that has its id, then logs and counts it. The answer has the id too.
pub(crate) async fn observe(mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = sent_id(request.headers()).unwrap_or_else(new_id);
    request.extensions_mut().insert(RequestId::new(id.clone()));
    let method = known_method(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let traceparent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let traceparent = traceparent.filter(|text| is_traceparent(text));
    let id_text = id.to_str().unwrap_or_default();
    let span = tracing::info_span!("request", id = id_text, trace = traceparent.map(trace_id));
    join_trace(&span, traceparent);
    let of_span = traceparent_of(&span);
    let context = RequestContext::new(id_text, of_span.as_deref().or(traceparent));
    let served = context.clone().scope(next.run(request));
    let mut response = served.instrument(span.clone()).await;
    response.headers_mut().insert(REQUEST_ID, id);

    let duration = began.elapsed();
    let status = response.status().as_u16();
    REQUESTS.note(method, route, status, duration);
    let milliseconds = duration.as_micros() as f64 / 1000.0;
    // That of a stream is not known yet.
    let bytes = response.body().size_hint().exact();
    let caller = context.caller();
    let _in_request = span.enter();
    if WATCHED.contains(&route) && response.status().is_success() {
        tracing::debug!(method, route, status, milliseconds, bytes, caller, "answered");
    } else {
        tracing::info!(method, route, status, milliseconds, bytes, caller, "answered");
    }
    response
}

/// The id that a client has given its request, if it is plain: it comes back in the answer and stands in log lines.
fn sent_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut ids = headers.get_all(REQUEST_ID).iter();
    let id = ids.next().filter(|_| ids.next().is_none())?;
    let bytes = id.as_bytes();
    let is_plain = (1..=MAX_ID_CHARS).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
    is_plain.then(|| id.clone())
}

fn new_id() -> HeaderValue {
    // A UUID is plain.
    HeaderValue::try_from(uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static(""))
}

/// The method of a request as one of a closed set: clients can invent others.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_plain_id_is_taken() {
        let sent = |ids: &[&'static str]| {
            let mut headers = HeaderMap::new();
            ids.iter().for_each(|id| {
                headers.append(REQUEST_ID, HeaderValue::from_static(id));
            });
            sent_id(&headers).map(|id| id.to_str().unwrap().to_owned())
        };

        assert_eq!(sent(&["req_A-1.b"]).as_deref(), Some("req_A-1.b"));
        assert_eq!(sent(&[]), None);
        assert_eq!(sent(&[""]), None);
        assert_eq!(sent(&["a b"]), None);
        assert_eq!(sent(&["a\"b=\tc"]), None);
        assert_eq!(sent(&["a", "b"]), None);
        assert_eq!(
            sent(&[
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678x"
            ]),
            None
        );
    }
}
