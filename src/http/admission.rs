//! Who sends a request, and whether they may: before any handler, for every operation.

mod credentials;
mod doors;
mod operations;

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tower_http::request_id::RequestId;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};

use self::credentials::{Credentials, credentials};
use self::operations::{Needs, changes, is_within, needs};
use super::error::ApiError;
use crate::app::access::{RateClass, Taken};
use crate::app::{App, Caller, Refusal};
use crate::domain::access::Scope;
use crate::domain::code::Code;
use crate::request_context::RequestContext;

pub(crate) use credentials::take_token_from_query;
pub use doors::Doors;
pub(crate) use doors::guard;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Finds out who sends the request, refuses what they may not do, and notes what they have changed.
pub(crate) async fn admit(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let Some(pattern) = request.extensions().get::<MatchedPath>().cloned() else {
        return next.run(request).await; // no such path
    };
    let method = request.method().clone();
    let needs = needs(&method, pattern.as_str());
    if needs == Needs::Nothing || method == Method::OPTIONS {
        return next.run(request).await;
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let caller = match caller(&app, credentials(&request), origin).await {
        Ok(caller) => caller,
        Err(refusal) => return ApiError::from(refusal).into_response(),
    };
    if let Err(refusal) = check(&caller, needs, &method, request.uri().path()) {
        return ApiError::from(refusal).into_response();
    }
    let class =
        if changes(&method, pattern.as_str()) { RateClass::Writes } else { RateClass::Reads };
    let taken = app.take_from_rate(&caller, class);
    if let Some(Taken { retry_after: Some(retry_after), .. }) = taken {
        let mut response = ApiError::from(Refusal::RateLimited { retry_after }).into_response();
        add_rate(response.headers_mut(), taken);
        return response;
    }
    request.extensions_mut().insert(caller);
    if let Some(context) = RequestContext::current() {
        context.note_caller(|| match caller.key_id() {
            Some(key) => key.to_string(),
            None => caller.project_id().to_string(),
        });
    }
    let change = (class == RateClass::Writes).then(|| Change::begin(&request, &method, &pattern));

    let mut response = next.run(request).await;
    add_rate(response.headers_mut(), taken);
    let status = response.status();
    if let Some(change) = change
        && (status.is_success() || status.is_redirection())
    {
        let made = response.headers().get(header::LOCATION).cloned();
        change.record(&app, &caller, status.as_u16(), made).await;
    }
    response
}

async fn caller(
    app: &App,
    credentials: Credentials,
    origin: Option<HeaderValue>,
) -> Result<Caller, Refusal> {
    if !app.asks_for_keys() {
        return Ok(Caller::anonymous());
    }
    match credentials {
        Credentials::None => Err(Refusal::Unauthenticated {
            detail: "this needs a key: send it as `Authorization: Bearer`",
        }),
        Credentials::Unusable(detail) => Err(Refusal::Unauthenticated { detail }),
        Credentials::Key(key) => app.caller_with_key(&key).await,
        Credentials::ClientToken(token) => {
            let origin = origin.as_ref().and_then(|value| value.to_str().ok());
            app.caller_with_token(&token, origin).await
        }
    }
}

fn check(caller: &Caller, needs: Needs, method: &Method, path: &str) -> Result<(), Refusal> {
    let missing = |detail: String| Err(Refusal::Forbidden { code: Code::MissingScope, detail });
    if let Needs::Scope(scope) = needs
        && !caller.scopes().contains(scope)
    {
        return missing(format!(
            "this needs the scope `{}`, which the key has not",
            scope.as_str()
        ));
    }
    match caller.bound() {
        Some(bound) if !is_within(bound, method, path) => {
            missing("the client token is good for another thing: use a key".to_owned())
        }
        Some(_) | None => Ok(()),
    }
}

/// What is left of the rate, as the IETF's draft has it.
fn add_rate(headers: &mut HeaderMap, taken: Option<Taken>) {
    let Some(taken) = taken else { return };
    let (name, full_after) = (taken.class.as_str(), taken.full_after.as_secs_f64().ceil());
    let policy = format!("\"{name}\";q={};w=60", taken.quota);
    let rate = format!("\"{name}\";r={};t={full_after}", taken.remaining);
    for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, rate)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// A request that changes something if it succeeds.
struct Change {
    operation: String,
    path: String,
    request_id: String,
}

impl Change {
    fn begin(request: &Request, method: &Method, pattern: &MatchedPath) -> Self {
        let id = request.extensions().get::<RequestId>();
        let id = id.and_then(|id| id.header_value().to_str().ok()).unwrap_or_default();
        Self {
            operation: format!("{method} {}", pattern.as_str()),
            path: request.uri().path().to_owned(),
            request_id: id.to_owned(),
        }
    }

    /// - `made`: where the answer says that something was made
    async fn record(self, app: &App, caller: &Caller, status: u16, made: Option<HeaderValue>) {
        let made = made.as_ref().and_then(|value| value.to_str().ok());
        let object = made.map_or(self.path, str::to_owned);
        app.record_change(caller, self.operation, object, status, self.request_id).await;
    }
}

/// Answers 503 to a request too many.
pub(crate) async fn shed_load(
    State(permits): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Response {
    if matches!(request.uri().path(), "/livez" | "/readyz") {
        return next.run(request).await;
    }
    match permits.try_acquire_owned() {
        // Until the answer begins: a stream of events takes no place.
        Ok(_permit) => next.run(request).await,
        Err(_) => ApiError::from(Refusal::Overloaded).into_response(),
    }
}

/// Adds to the document which operations need a key, and with which scope.
pub(crate) fn describe(document: &mut OpenApi) {
    const KEY: &str = "key";
    let mut key = Http::new(HttpAuthScheme::Bearer);
    key.description = Some(
        "A key, or a client token, if the service asks for keys. A service on a loopback address asks for none unless it is told to."
            .to_owned(),
    );
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(KEY, SecurityScheme::Http(key));
    for (pattern, item) in &mut document.paths.paths {
        let operations = [
            (Method::GET, &mut item.get),
            (Method::HEAD, &mut item.head),
            (Method::POST, &mut item.post),
            (Method::PUT, &mut item.put),
            (Method::PATCH, &mut item.patch),
            (Method::DELETE, &mut item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            let scope = match needs(&method, pattern) {
                Needs::Nothing => {
                    operation.security = Some(Vec::new());
                    continue;
                }
                Needs::Key => "Needs any key.".to_owned(),
                Needs::Scope(scope) => format!("Needs the scope `{}`.", Scope::as_str(scope)),
            };
            operation.security = Some(vec![SecurityRequirement::new(KEY, Vec::<String>::new())]);
            let description = operation.description.take().filter(|text| !text.is_empty());
            operation.description = Some(
                description.map_or_else(|| scope.clone(), |text| format!("{text}\n\n{scope}")),
            );
        }
    }
}
