//! From where requests may come.
//!
//! A service that asks for no keys trusts whoever reaches it, so a page in a browser on the same machine must not reach it in
//! its user's name: neither by a name that resolves to this machine (`Host`), nor by a form or a script of another site
//! (`Origin`). With keys a page would need one, and only CORS is of interest.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::app::{App, Refusal};
use crate::domain::code::Code;
use crate::http::error::ApiError;

/// From where requests may come, and how many at a time.
#[derive(Clone, Debug)]
pub struct Doors {
    /// The address that the service listens on.
    pub address: IpAddr,
    /// Names under which the service is known, besides those of this machine.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may send requests and read the answers; `*` for all.
    pub cors_origins: Vec<String>,
    /// Requests that are worked on at a time. A further one is answered 503.
    pub max_requests: usize,
}

impl Default for Doors {
    fn default() -> Self {
        let address = IpAddr::from([127, 0, 0, 1]);
        let (allowed_hosts, cors_origins) = (Vec::new(), Vec::new());
        Self { address, allowed_hosts, cors_origins, max_requests: 2000 }
    }
}

impl Doors {
    /// Answers preflight requests, and adds to every answer, errors included, who may read it. `None` if nobody may.
    pub(crate) fn cors(&self) -> Option<CorsLayer> {
        if self.cors_origins.is_empty() {
            return None;
        }
        let names = ["idempotency-key", "last-event-id", "prefer", "traceparent", "x-request-id"];
        let mut headers = vec![
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            header::RANGE,
        ];
        headers.extend(names.map(header::HeaderName::from_static));
        let shown = [
            "content-disposition",
            "content-range",
            "etag",
            "idempotency-replayed",
            "link",
            "location",
            "preference-applied",
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "www-authenticate",
            "x-request-id",
        ];
        let origins =
            self.cors_origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok());
        let allowed = match self.cors_origins.iter().any(|origin| origin == "*") {
            true => AllowOrigin::from(Any),
            false => AllowOrigin::list(origins),
        };
        let cors = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            .allow_headers(headers)
            .expose_headers(shown.map(header::HeaderName::from_static))
            .max_age(std::time::Duration::from_secs(3600));
        Some(cors)
    }

    fn knows_host(&self, host: &str) -> bool {
        let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
        if self
            .allowed_hosts
            .iter()
            .any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(&name))
        {
            return true;
        }
        let in_brackets = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match in_brackets.unwrap_or(&name).parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback() || ip == self.address || self.address.is_unspecified(),
            Err(_) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    fn allows_origin(&self, origin: &str, host: Option<&str>) -> bool {
        let own = origin.split_once("://").map(|(_, authority)| authority);
        (own.is_some() && own == host)
            || self.cors_origins.iter().any(|allowed| allowed == "*" || allowed == origin)
    }

    /// Refuses a request that a page of another site may have sent.
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let host = host_of(request);
        if !host.as_deref().is_some_and(|host| self.knows_host(host)) {
            let detail = "the service is not known under this name: use localhost, or allow it with --allowed-hosts".to_owned();
            return Err(Refusal::Forbidden { code: Code::UnknownHost, detail });
        }
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(()); // its answer can be read by nobody without CORS
        }
        let forbidden = || Refusal::Forbidden {
            code: Code::OriginNotAllowed,
            detail:
                "a page of another site sends this request: allow its origin with --cors-origins"
                    .to_owned(),
        };
        let text = |name| text_of(request.headers(), name);
        match text(header::ORIGIN.as_str()) {
            Some(origin) if self.allows_origin(origin, host.as_deref()) => Ok(()),
            Some(_) => Err(forbidden()),
            None if request.headers().contains_key(header::ORIGIN) => Err(forbidden()),
            // An old form of a browser that names no origin.
            None => match text("sec-fetch-site") {
                Some("same-origin" | "none") | None => Ok(()),
                Some(_) => Err(forbidden()),
            },
        }
    }
}

/// Refuses what a page of another site may have sent, if the service asks for no keys.
pub(crate) async fn guard(
    State((app, doors)): State<(App, Doors)>,
    request: Request,
    next: Next,
) -> Response {
    // A load balancer asks these by whatever name.
    let is_health = matches!(request.uri().path(), "/livez" | "/readyz");
    if !app.asks_for_keys()
        && !is_health
        && let Err(refusal) = doors.check(&request)
    {
        return ApiError::from(refusal).into_response();
    }
    next.run(request).await
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `Host`, or the authority of HTTP/2.
fn host_of(request: &Request) -> Option<String> {
    let of_uri = request.uri().authority().map(|authority| authority.as_str().to_owned());
    of_uri.or_else(|| text_of(request.headers(), header::HOST.as_str()).map(str::to_owned))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') =>
        {
            name
        }
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(method: Method, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri("/v1/concepts");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn a_name_that_only_resolves_to_this_machine_is_refused() {
        let doors = Doors { allowed_hosts: vec!["vstar.internal".to_owned()], ..Doors::default() };
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:7000",
            "[::1]:80",
            "a.localhost",
            "vstar.internal:1",
        ] {
            assert!(doors.check(&request(Method::GET, &[("host", host)])).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.7",
            "localhost.evil.example",
            "",
            "[::1",
        ] {
            assert!(doors.check(&request(Method::GET, &[("host", host)])).is_err(), "{host}");
        }
        assert!(doors.check(&request(Method::GET, &[])).is_err());
        let everywhere = Doors { address: IpAddr::from([0, 0, 0, 0]), ..Doors::default() };
        assert!(everywhere.check(&request(Method::GET, &[("host", "10.0.0.7")])).is_ok());
        assert!(everywhere.check(&request(Method::GET, &[("host", "evil.example")])).is_err());
    }

    #[test]
    fn only_pages_of_the_service_itself_may_post() {
        let doors =
            Doors { cors_origins: vec!["https://shop.example".to_owned()], ..Doors::default() };
        let post = |headers: &[(&str, &str)]| {
            let headers = [&[("host", "localhost:8080")], headers].concat();
            doors.check(&request(Method::POST, &headers)).is_ok()
        };
        assert!(post(&[]), "programs send no origin");
        assert!(post(&[("origin", "http://localhost:8080")]));
        assert!(post(&[("origin", "https://shop.example")]));
        assert!(post(&[("sec-fetch-site", "same-origin")]));
        for origin in [
            "https://evil.example",
            "http://localhost:3000",
            "null",
            "http://localhost:8080.evil.example",
        ] {
            assert!(!post(&[("origin", origin)]), "{origin}");
        }
        assert!(!post(&[("sec-fetch-site", "cross-site")]));
    }
}
