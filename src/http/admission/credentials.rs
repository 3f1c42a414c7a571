//! What a request brings to say who sends it.

use axum::extract::Request;
use axum::http::{HeaderMap, Uri, header};

/// The parameter in which a client that cannot send headers, such as `EventSource`, sends its client token.
const TOKEN: &str = "token";
/// The longest key or token, in bytes. A longer text is neither.
const MAX_BYTES: usize = 1024;

/// What a request brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    None,
    Key(String),
    ClientToken(String),
    /// Something that proves nothing, and why.
    Unusable(&'static str),
}

/// A client token that was taken out of a request's query.
#[derive(Clone)]
struct QueryToken(String);

/// Takes a client token out of the query, so that neither a log line nor the check of the parameters sees it.
pub(crate) fn take_token_from_query(mut request: Request) -> Request {
    let Some(query) = request.uri().query().filter(|query| query.contains("token=")) else {
        return request;
    };
    let (mut token, mut rest) = (None, Vec::new());
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some((TOKEN, value)) => token = Some(value.to_owned()),
            Some(_) | None => rest.push(pair),
        }
    }
    let Some(token) = token else { return request };
    let path = request.uri().path();
    let path_and_query = match rest.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", rest.join("&")),
    };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = path_and_query.try_into().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(QueryToken(token));
    request
}

/// Reads what a request brings.
pub(super) fn credentials(request: &Request) -> Credentials {
    let Some(QueryToken(token)) = request.extensions().get::<QueryToken>() else {
        return in_header(request.headers());
    };
    // A client may send its key with every request. The token is good for less, so it decides.
    match token.starts_with("vstarct_") && token.len() <= MAX_BYTES {
        true => Credentials::ClientToken(token.clone()),
        false => Credentials::Unusable(
            "`token` is for client tokens: send a key as `Authorization: Bearer`, where no log has it",
        ),
    }
}

/// Reads `Authorization`: its scheme without regard to case, what follows exactly.
fn in_header(headers: &HeaderMap) -> Credentials {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Credentials::None };
    if fields.next().is_some() {
        return Credentials::Unusable("there are two `Authorization` fields: send one");
    }
    let Ok(text) = field.to_str() else {
        return Credentials::Unusable("`Authorization` is not ASCII: send `Bearer` and the key");
    };
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Credentials::Unusable("the scheme is not supported: send `Bearer` and the key");
    }
    match rest.trim() {
        "" => Credentials::Unusable("there is no key behind `Bearer`"),
        text if text.len() > MAX_BYTES => Credentials::Unusable("this is no key: it is too long"),
        text if text.starts_with("vstarct_") => Credentials::ClientToken(text.to_owned()),
        text => Credentials::Key(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::HeaderValue;

    use super::*;

    fn with(fields: &[&[u8]]) -> Credentials {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(field).unwrap());
        }
        in_header(&headers)
    }

    #[test]
    fn the_scheme_is_read_without_regard_to_case_and_the_key_exactly() {
        for field in ["Bearer abcD", "bearer abcD", "BEARER  abcD", "Bearer abcD "] {
            assert_eq!(with(&[field.as_bytes()]), Credentials::Key("abcD".to_owned()), "{field}");
        }
        assert_eq!(with(&[]), Credentials::None);
        let long = format!("Bearer {}", "x".repeat(10_000));
        for fields in [
            &[&b"Basic abcD"[..]][..],
            &[b"Bearer abcD", b"Bearer abcD"],
            &[b"Bearer abc\xff"],
            &[b"Bearer"],
            &[b"abcD"],
            &[long.as_bytes()],
        ] {
            assert!(matches!(with(fields), Credentials::Unusable(_)), "{fields:?}");
        }
    }

    #[test]
    fn a_token_leaves_the_query() {
        let request = |uri: &str| Request::builder().uri(uri).body(Body::empty()).unwrap();

        let taken = take_token_from_query(request("/v1/x?a=1&token=vstarct_z&b=2"));
        assert_eq!(taken.uri(), "/v1/x?a=1&b=2");
        assert_eq!(credentials(&taken), Credentials::ClientToken("vstarct_z".to_owned()));

        let alone = take_token_from_query(request("/v1/x?token=vstar_z_z"));
        assert_eq!(alone.uri(), "/v1/x");
        assert!(matches!(credentials(&alone), Credentials::Unusable(_)), "keys are no tokens");

        let other = take_token_from_query(request("/v1/x?modifier_token=y"));
        assert_eq!(other.uri(), "/v1/x?modifier_token=y");
    }
}
