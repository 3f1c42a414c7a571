//! How a command ends: what is said about a failure, and the exit status that tells a script its cause.

use std::process::ExitCode;

use anyhow::Error;

use super::output::printable;
use crate::client::{JobEnded, Problem, Refused, Unanswered};
use crate::stdout::Closed;

const DONE: u8 = 0;
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

/// Every exit status and its cause, as manual pages have them.
pub(super) const STATUSES: [(u8, &str); 12] = [
    (DONE, "it has worked"),
    (OTHER, "anything else: no answer, a file that cannot be written, an error of the service"),
    (USAGE, "the command line is wrong"),
    (
        VALIDATION,
        "the service refuses the request as it is; the message names the field and what to do",
    ),
    (NOT_FOUND, "something that is named does not exist"),
    (ACCESS, "no key, a wrong one, or one that may not do this"),
    (QUOTA, "a quota or a rate is used up"),
    (JOB_FAILED, "the job failed"),
    (JOB_CANCELED, "the job was canceled"),
    (TIMEOUT, "it took longer than --timeout or --finish-within"),
    (INTERRUPTED, "Ctrl-C; a job that was followed goes on"),
    (PIPE_CLOSED, "whoever read standard output has gone"),
];

/// Codes of refusals whose cause is that something named in the request's body is not there.
const UNKNOWN: [&str; 6] = [
    "unknown_concept",
    "unknown_delta",
    "unknown_image",
    "unknown_image_set",
    "unknown_evaluation",
    "not_found",
];

/// Refusals whose remedy is a command. The service names the operation of the API.
const REMEDIES: [(&str, &str); 5] = [
    ("unauthenticated", "VSTAR_API_KEY takes the key"),
    (
        "unknown_concept",
        "`vstar concepts` lists those that are there, `vstar concepts create` makes one",
    ),
    ("concept_not_trained", "`vstar train` teaches it"),
    ("dataset_too_small", "`vstar concepts add` adds photos"),
    ("no_earlier_delta", "`vstar concepts promote` chooses one"),
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

/// Ctrl-C while nothing was left to go on alone.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// What a user can do after an error, or what is left of the command. It is the context of the error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Hint(pub(super) String);

/// Says what went wrong on standard error, and returns the exit status.
pub fn report(error: &Error) -> ExitCode {
    let status = status(error);
    if status != PIPE_CLOSED {
        say(error);
    }
    ExitCode::from(status)
}

/// Says what went wrong on standard error. A command can go on with something else after it.
pub(super) fn say(error: &Error) {
    eprint!("{}", text(error));
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
    } else if error.is::<Detached>() || error.is::<Interrupted>() {
        INTERRUPTED
    } else if let Some(refused) = error.downcast_ref::<Refused>() {
        of_refusal(refused)
    } else if let Some(ended) = error.downcast_ref::<JobEnded>() {
        of_job(ended)
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
    let mut lines = said(error);
    lines.extend(error.downcast_ref::<Hint>().map(|hint| format!("  {hint}")));
    let lines = lines.iter().flat_map(|text| text.lines());
    lines.map(|line| printable(line) + "\n").collect()
}

fn said(error: &Error) -> Vec<String> {
    if let Some(detached) = error.downcast_ref::<Detached>() {
        vec![detached.to_string()]
    } else if let Some(refused) = error.downcast_ref::<Refused>() {
        match &refused.problem {
            Some(problem) => of_problem(refused, problem),
            None => of_stranger(refused),
        }
    } else if let Some(Unanswered { address, source, .. }) = error.downcast_ref::<Unanswered>() {
        if source.is_builder() {
            return vec!["error: VSTAR_API_KEY has characters that no key has".to_owned()];
        }
        vec![
            format!("error: no answer from {address}: {}", innermost(source)),
            "  `vstar serve` starts a service; --server or VSTAR_URL names another".to_owned(),
        ]
    } else if let Some(ended) = error.downcast_ref::<JobEnded>() {
        let id = ended.job["id"].as_str().unwrap_or(&ended.path);
        vec![match ended.job["error"]["detail"].as_str() {
            Some(detail) => format!("error: {id} {}: {detail} ({})", ended.status, ended.code()),
            None => format!("error: {id} was {}", ended.status),
        }]
    } else {
        // The hint has a line of its own.
        let causes = error.chain().skip(usize::from(error.is::<Hint>()));
        let causes: Vec<String> = causes.map(ToString::to_string).collect();
        vec![format!("error: {}", causes.join(": "))]
    }
}

/// What the service says of a request that it refuses.
fn of_problem(refused: &Refused, problem: &Problem) -> Vec<String> {
    let mut lines = vec![format!("error: {} ({})", problem.detail, problem.code)];
    for field in &problem.errors {
        if problem.errors.len() > 1 || field.detail != problem.detail {
            lines.push(format!("  {}: {} ({})", field.pointer, field.detail, field.code));
        } else if !field.pointer.is_empty() {
            lines.push(format!("  at {}", field.pointer));
        }
    }
    if refused.status.is_server_error() {
        lines.push(format!("  request {}", problem.request_id.as_deref().unwrap_or("unknown")));
    }
    let remedy = REMEDIES.iter().find(|(code, _)| *code == problem.code);
    lines.extend(remedy.map(|(_, remedy)| format!("  {remedy}")));
    lines
}

/// What is said of an answer that is not the service's own.
fn of_stranger(refused: &Refused) -> Vec<String> {
    let Refused { address, status, method, path, .. } = refused;
    vec![
        format!("error: {address} answered {status} to {method} {path}"),
        format!("  {}", stranger(refused)),
    ]
}

/// What has answered in the service's place, and what to do.
pub(super) fn stranger(refused: &Refused) -> String {
    match (&refused.location, refused.status.as_u16()) {
        (Some(location), 300..=399) => {
            format!("it sends on to {location}: give --server or VSTAR_URL the address that answers")
        }
        (_, 401 | 403 | 407) => "a proxy in front of the service lets nobody in without its own credentials".to_owned(),
        (_, 502..=504) => "a proxy in front of the service does not reach it".to_owned(),
        _ => "it is no vstar service: --server or VSTAR_URL takes the address of one, behind a proxy with its path".to_owned(),
    }
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
    use crate::client::StatusCode;
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
            address: String::new(),
            path,
            status,
            problem: Some(problem),
            body,
            location: None,
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
    fn what_is_said_has_a_cause_and_a_remedy() {
        let hinted =
            Error::new(Invalid("1 photo was rejected".into())).context(Hint("add it".into()));
        let said = text(&hinted);
        assert_eq!(
            (status(&hinted), said.as_str()),
            (VALIDATION, "error: 1 photo was rejected\n  add it\n")
        );

        let refused = text(&refused(422, "out_of_range").context(Hint("it is there".into())));
        assert_eq!(refused, "error: no (out_of_range)\n  it is there\n");
        let several = anyhow::anyhow!("two:\n- a\x1b[2J\n- b").context("so");
        assert_eq!(text(&several), "error: so: two:\n- a\u{fffd}[2J\n- b\n");
    }

    #[test]
    fn the_documentation_has_every_status() {
        let documentation = include_str!("../../docs/cli.md").replace('`', "");
        for (status, cause) in STATUSES {
            let row = format!("| {status} | {cause} |");
            assert!(documentation.contains(&row), "{row}");
        }
    }

    #[test]
    fn the_codes_are_those_of_the_service() {
        for code in UNKNOWN.into_iter().chain(REMEDIES.map(|(code, _)| code)) {
            assert!(Code::ALL.iter().any(|known| known.as_str() == code), "{code}");
        }
    }
}
