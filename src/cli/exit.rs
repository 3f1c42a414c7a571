//! How a command ends: what is said about a failure, and the exit status that tells a script its cause.
//!
//! | status | cause |
//! |---|---|
//! | 0 | it has worked |
//! | 1 | anything else: no answer, a file that cannot be written, an error of the service |
//! | 2 | the command line is wrong |
//! | 3 | the service refuses the request as it is |
//! | 4 | something that the request names does not exist |
//! | 5 | no key, a wrong one, or one that may not do this |
//! | 6 | a quota or a rate is used up |
//! | 7 | the job failed |
//! | 8 | the job was canceled |
//! | 9 | it took longer than it was given |
//! | 130 | Ctrl-C; a job that was followed goes on |
//! | 141 | whoever read standard output has gone |

use std::process::ExitCode;

use anyhow::Error;

use crate::client::{JobEnded, Refused, Unanswered};
use crate::stdout::Closed;

const OTHER: u8 = 1;
const USAGE: u8 = 2;
const VALIDATION: u8 = 3;
const NOT_FOUND: u8 = 4;
const ACCESS: u8 = 5;
const QUOTA: u8 = 6;
const JOB_FAILED: u8 = 7;
const JOB_CANCELED: u8 = 8;
const TIMEOUT: u8 = 9;
const INTERRUPTED: u8 = 130;
const PIPE_CLOSED: u8 = 141;

/// Codes of refusals whose cause is that something named in the request's body is not there.
const UNKNOWN: [&str; 6] = [
    "unknown_concept",
    "unknown_delta",
    "unknown_image",
    "unknown_image_set",
    "unknown_evaluation",
    "not_found",
];

/// The command line is wrong in a way that its parser does not see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// What was done needs another try by the user, although the service has not refused it as a whole.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Invalid(pub(super) String);

/// A job did not end within `--timeout`. It goes on.
#[derive(Debug, thiserror::Error)]
#[error("{id} has not ended within {seconds} s; it goes on: `vstar watch {id}` shows it")]
pub(super) struct TimedOut {
    pub(super) id: String,
    pub(super) seconds: f64,
}

/// Ctrl-C while a job was followed. It goes on.
#[derive(Debug, thiserror::Error)]
#[error("{0} goes on: `vstar watch {0}` shows it, `vstar cancel {0}` cancels it")]
pub(super) struct Detached(pub(super) String);

/// Says what went wrong on standard error, and returns the exit status.
pub fn report(error: &Error) -> ExitCode {
    let status = status(error);
    if status != PIPE_CLOSED {
        eprint!("{}", text(error));
    }
    ExitCode::from(status)
}

/// The exit status of a failure.
fn status(error: &Error) -> u8 {
    if error.is::<Closed>() {
        PIPE_CLOSED
    } else if error.is::<Usage>() {
        USAGE
    } else if error.is::<Invalid>() {
        VALIDATION
    } else if error.is::<TimedOut>() {
        TIMEOUT
    } else if error.is::<Detached>() {
        INTERRUPTED
    } else if let Some(refused) = error.downcast_ref::<Refused>() {
        of_refusal(refused)
    } else if let Some(ended) = error.downcast_ref::<JobEnded>() {
        of_job(ended)
    } else if error.downcast_ref::<Unanswered>().is_some_and(|lost| lost.source.is_timeout()) {
        TIMEOUT
    } else {
        OTHER
    }
}

fn of_refusal(refused: &Refused) -> u8 {
    match (refused.status.as_u16(), refused.code()) {
        (_, code) if UNKNOWN.contains(&code) => NOT_FOUND,
        (404, _) => NOT_FOUND,
        (401 | 403 | 421, _) => ACCESS,
        (429, _) => QUOTA,
        (408 | 504, _) => TIMEOUT,
        (400..=499, _) => VALIDATION,
        _ => OTHER,
    }
}

fn of_job(ended: &JobEnded) -> u8 {
    match (ended.status.as_str(), ended.code()) {
        ("canceled", _) => JOB_CANCELED,
        (_, "deadline_exceeded") => TIMEOUT,
        _ => JOB_FAILED,
    }
}

/// What is said: the cause first, then what a user can do with it.
fn text(error: &Error) -> String {
    if let Some(detached) = error.downcast_ref::<Detached>() {
        return format!("{detached}\n");
    }
    if let Some(refused) = error.downcast_ref::<Refused>()
        && let Some(problem) = &refused.problem
    {
        let mut text = format!("error: {} ({})\n", problem.detail, problem.code);
        for field in &problem.errors {
            if problem.errors.len() > 1 || field.detail != problem.detail {
                text += &format!("  {}: {} ({})\n", field.pointer, field.detail, field.code);
            } else {
                text += &format!("  at {}\n", field.pointer);
            }
        }
        if refused.status.is_server_error() {
            text += &format!("  request {}\n", problem.request_id.as_deref().unwrap_or("unknown"));
        }
        if refused.code() == "unauthenticated" {
            text += "  VSTAR_API_KEY takes the key\n";
        }
        return text;
    }
    if let Some(unanswered) = error.downcast_ref::<Unanswered>() {
        return format!(
            "error: no answer from {}: {}\n  `vstar serve` starts a service; --server or VSTAR_URL names another\n",
            unanswered.address,
            innermost(&unanswered.source),
        );
    }
    if let Some(ended) = error.downcast_ref::<JobEnded>() {
        let id = ended.job["id"].as_str().unwrap_or(&ended.path);
        return match ended.job["error"]["detail"].as_str() {
            Some(detail) => format!("error: {id} {}: {detail} ({})\n", ended.status, ended.code()),
            None => format!("error: {id} was {}\n", ended.status),
        };
    }
    format!("error: {error:#}\n")
}

/// The first cause, such as "connection refused".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use serde_json::json;

    use super::*;
    use crate::client::{Problem, StatusCode};
    use crate::domain::code::Code;

    fn refused(status: u16, code: &str) -> Error {
        let problem = Problem {
            code: code.to_owned(),
            detail: "no".to_owned(),
            errors: Vec::new(),
            request_id: None,
            retryable: false,
        };
        let (method, path, body) = ("POST".into(), "/v1/samples".into(), String::new());
        let status = StatusCode::from_u16(status).unwrap();
        Error::new(Refused {
            method,
            path,
            status,
            problem: Some(problem),
            body,
            retry_after: None,
        })
    }

    #[test]
    fn each_cause_has_its_status() {
        let job = |status: &str, code: &str| {
            let job = json!({ "error": { "code": code, "detail": "no" } });
            Error::new(JobEnded { path: String::new(), status: status.into(), job })
        };
        for (error, expected) in [
            (refused(422, "out_of_range"), VALIDATION),
            (refused(409, "handle_taken"), VALIDATION),
            (refused(422, "unknown_concept"), NOT_FOUND),
            (refused(404, "not_found"), NOT_FOUND),
            (refused(401, "unauthenticated"), ACCESS),
            (refused(403, "missing_scope"), ACCESS),
            (refused(429, "quota_exceeded"), QUOTA),
            (refused(503, "queue_full"), OTHER),
            (job("failed", "engine_error"), JOB_FAILED),
            (job("failed", "deadline_exceeded"), TIMEOUT),
            (job("canceled", ""), JOB_CANCELED),
            (Error::new(Closed), PIPE_CLOSED),
            (anyhow::anyhow!("anything"), OTHER),
        ] {
            assert_eq!(status(&error), expected, "{error}");
            assert_eq!(status(&Error::context(error, "while it ran")), expected);
        }
        let timed_out = Err::<(), _>(TimedOut { id: "trn_1".into(), seconds: 1.0 }).context("so");
        assert_eq!(status(&timed_out.unwrap_err()), TIMEOUT);
    }

    #[test]
    fn the_codes_are_those_of_the_service() {
        for code in UNKNOWN {
            assert!(Code::ALL.iter().any(|known| known.as_str() == code), "{code}");
        }
    }
}
