//! Why a request to the service did not succeed, as types that a program can tell apart.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

/// The service has refused a request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{method} {path} answered {status}: {}", self.reason())]
pub struct Refused {
    pub method: String,
    /// Where the service is.
    pub address: String,
    pub path: String,
    pub status: StatusCode,
    /// What the service says; `None` if something else has answered, such as a proxy.
    pub problem: Option<Problem>,
    /// The answer's body as it came.
    pub body: String,
    /// Where it sends on to, if it answers with a redirect. It is not followed: a service sends none, and a redirect makes a GET of a
    /// POST and loses the key.
    pub location: Option<String>,
    /// How long to wait before the request is sent again, if the service says so.
    pub retry_after: Option<Duration>,
}

/// The body of a refusal: a problem after RFC 9457.
#[derive(Clone, Debug, Deserialize)]
pub struct Problem {
    /// The kind of error, for programs.
    pub code: String,
    /// What is wrong and what to do about it.
    pub detail: String,
    /// Everything that is wrong, field by field.
    #[serde(default)]
    pub errors: Vec<FieldProblem>,
    /// The request's id in the service's log.
    pub request_id: Option<String>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
}

/// What is wrong with one field of a request.
#[derive(Clone, Debug, Deserialize)]
pub struct FieldProblem {
    /// JSON pointer into the body, or the name of a query parameter.
    pub pointer: String,
    pub code: String,
    pub detail: String,
}

impl Refused {
    /// The problem's code; empty if something else has answered.
    pub fn code(&self) -> &str {
        self.problem.as_ref().map_or("", |problem| &problem.code)
    }

    /// Whether sending the same request again can help within seconds. More of a quota is not there until something is deleted.
    pub(super) fn is_passing(&self) -> bool {
        match &self.problem {
            Some(problem) => problem.retryable && problem.code != "quota_exceeded",
            None => [502, 503, 504].contains(&self.status.as_u16()),
        }
    }

    fn reason(&self) -> String {
        match &self.problem {
            Some(problem) => format!("{}: {}", problem.code, problem.detail),
            None => excerpt(&self.body),
        }
    }
}

/// The beginning of a text, on one line: a proxy may answer with a whole page.
fn excerpt(body: &str) -> String {
    const LENGTH: usize = 200;
    let line = body.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Nothing has answered.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path} was not answered by {address}")]
pub struct Unanswered {
    pub method: String,
    pub path: String,
    pub address: String,
    #[source]
    pub source: reqwest::Error,
}

/// The answer is not JSON, although the request was done.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{path} did not answer with JSON, so it is no vstar service: --server or VSTAR_URL takes the address of one"
)]
pub struct Strange {
    pub path: String,
}

/// A job has ended without a result.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{path} ended as {status}{}", self.reason())]
pub struct JobEnded {
    pub path: String,
    /// `failed` or `canceled`.
    pub status: String,
    /// The job's last state.
    pub job: Value,
}

impl JobEnded {
    /// Why it failed: a code of the service; empty if it was canceled.
    pub fn code(&self) -> &str {
        self.job["error"]["code"].as_str().unwrap_or_default()
    }

    fn reason(&self) -> String {
        match self.job["error"]["detail"].as_str() {
            Some(detail) => format!(": {}: {detail}", self.code()),
            None => String::new(),
        }
    }
}
