//! One request to a receiver, within a time and a number of bytes, and what its answer means.

use std::error::Error;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderName, LOCATION, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};

use super::resolver::GuardedResolver;
use crate::db::webhook_outbox::LeasedDelivery;
use crate::domain::invalid::shortened;
use crate::domain::webhook::url::{Receivers, check};

/// The longest that a request may take, from the resolution of the name to the end of the answer's body.
pub(super) const LIMIT: Duration = Duration::from_secs(15);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection is kept for the next request.
const IDLE_LIMIT: Duration = Duration::from_secs(20);
/// The bytes of an answer that are read. The rest is not waited for.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The characters of an answer that are kept.
const EXCERPT_CHARS: usize = 500;
/// The characters of a reason that are kept.
const MAX_ERROR_CHARS: usize = 500;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What came of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: Option<u16>,
    /// Why the event does not count as delivered; `None` if it does.
    pub(super) error: Option<String>,
    /// The beginning of the body.
    pub(super) excerpt: Option<String>,
}

impl Answer {
    fn failed(error: String) -> Self {
        Self { error: Some(shortened(error, MAX_ERROR_CHARS)), ..Self::default() }
    }

    /// Whether the receiver wants no more of them.
    pub(super) fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::GONE.as_u16())
    }
}

/// A client that reaches receivers only: no proxy, no redirects, no private address.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    client: Client,
    receivers: Receivers,
}

impl Receiver {
    pub(super) fn new(receivers: Receivers) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .dns_resolver(GuardedResolver(receivers))
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_LIMIT)
            .timeout(LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(2)
            .build()?;
        Ok(Self { client, receivers })
    }

    /// Sends a delivery.
    ///
    /// - `timestamp`: the time of the attempt, in seconds since 1970
    pub(super) async fn send(
        &self,
        delivery: &LeasedDelivery,
        timestamp: i64,
        body: Vec<u8>,
    ) -> Answer {
        let asked = tokio::time::timeout(LIMIT, self.ask(delivery, timestamp, body));
        match asked.await {
            Ok(answer) => answer,
            Err(_) => Answer::failed(too_slow()),
        }
    }

    async fn ask(&self, delivery: &LeasedDelivery, timestamp: i64, body: Vec<u8>) -> Answer {
        // A number as a host does not ask the resolver, and what was allowed once may be no more.
        let url = match check(&delivery.url, self.receivers) {
            Ok(url) => url,
            Err(reason) => return Answer::failed(format!("not sent: {reason}")),
        };
        let id = delivery.delivery_id.to_string();
        let signatures: Vec<String> =
            delivery.secrets.iter().map(|secret| secret.sign(&id, timestamp, &body)).collect();
        let request = self
            .client
            .post(url)
            .header(USER_AGENT, concat!("vstar/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .header(WEBHOOK_ID, id)
            .header(WEBHOOK_TIMESTAMP, timestamp)
            .header(WEBHOOK_SIGNATURE, signatures.join(" "))
            .body(body);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Answer::failed(in_words(&error)),
        };
        let status = response.status();
        let location = response
            .headers()
            .get(LOCATION)
            .map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned());
        let mut bytes = Vec::new();
        let broke_off = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
            if bytes.len() >= MAX_ANSWER_BYTES {
                break None;
            }
        };
        let error = match broke_off {
            Some(error) => Some(in_words(&error)),
            None => refusal(status, location.as_deref()),
        };
        Answer {
            status: Some(status.as_u16()),
            error: error.map(|error| shortened(error, MAX_ERROR_CHARS)),
            excerpt: excerpt(&bytes),
        }
    }
}

/// Why an answer does not count as delivered; `None` if it does.
fn refusal(status: StatusCode, location: Option<&str>) -> Option<String> {
    if status.is_success() {
        None
    } else if status.is_redirection() {
        let to = location.unwrap_or("nowhere");
        Some(format!(
            "the receiver answered {status} with a redirect to {to}: redirects are not followed, give the endpoint its final URL"
        ))
    } else if status == StatusCode::GONE {
        Some("the receiver answered 410 Gone: it wants no more webhooks".to_owned())
    } else {
        Some(format!("the receiver answered {status}: only 2xx counts as delivered"))
    }
}

fn too_slow() -> String {
    format!("the receiver did not finish its answer within {} s", LIMIT.as_secs())
}

/// A failed request in words, with its last cause and without the URL, which may have a secret in it.
fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return match error.is_connect() {
            true => format!(
                "the receiver could not be connected to within {} s",
                CONNECT_LIMIT.as_secs()
            ),
            false => too_slow(),
        };
    }
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match error.is_connect() {
        true => format!("the receiver could not be connected to: {cause}"),
        false => format!("the request failed: {cause}"),
    }
}

/// The beginning of a body as a text that can be stored.
fn excerpt(bytes: &[u8]) -> Option<String> {
    let beginning = &bytes[..bytes.len().min(4 * EXCERPT_CHARS)];
    let text: String = String::from_utf8_lossy(beginning)
        .chars()
        .filter(|c| !c.is_control() || c.is_whitespace())
        .take(EXCERPT_CHARS)
        .collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_counts_and_redirects_are_explained() {
        assert_eq!(refusal(StatusCode::NO_CONTENT, None), None);
        let redirect = refusal(StatusCode::FOUND, Some("https://127.0.0.1/")).unwrap();
        assert!(redirect.contains("https://127.0.0.1/") && redirect.contains("not followed"));
        assert!(refusal(StatusCode::NOT_MODIFIED, None).is_some());
        assert!(refusal(StatusCode::INTERNAL_SERVER_ERROR, None).unwrap().contains("500"));
    }

    #[test]
    fn an_excerpt_is_short_and_can_be_stored() {
        assert_eq!(excerpt(b""), None);
        assert_eq!(excerpt(b"a\0b\x1b[2J\n").as_deref(), Some("ab[2J\n"));
        assert_eq!(excerpt(&vec![b'x'; 100_000]).unwrap().len(), EXCERPT_CHARS);
        assert!(excerpt(&[0xff; 10]).is_some());
    }
}
