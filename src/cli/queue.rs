//! `vstar queue`, `vstar cancel`: what runs, what waits, and what has ended.

use std::cmp::Reverse;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::each::each;
use super::list::{DEFAULT_LIMIT, LARGEST_LIMIT, data, limits, read_page};
use super::naming::{job_path, name};
use super::output::{Column, duration, text, time};
use super::session::Session;
use crate::client::Method;
use crate::stdout;

/// Which jobs are shown.
#[derive(Clone, Debug, Args)]
pub struct QueueArgs {
    /// Those of a concept.
    #[arg(long, value_parser = name)]
    concept: Option<String>,
    /// The newest that have ended, instead of those that run and wait.
    #[arg(long)]
    ended: bool,
    /// How many of them.
    #[arg(long, default_value_t = DEFAULT_LIMIT, requires = "ended", value_parser = limits())]
    limit: u8,
}

/// Which jobs to cancel.
#[derive(Clone, Debug, Args)]
pub struct CancelArgs {
    /// A training, sample, merge, evaluation or compression.
    #[arg(required = true, value_name = "ID", value_parser = name)]
    ids: Vec<String>,
}

const KINDS: [&str; 5] = ["trainings", "samples", "merges", "evaluations", "compressions"];
/// The states of a job that has not ended, in the order in which they are shown.
const STATES: [&str; 3] = ["running", "canceling", "queued"];
const ENDED: [&str; 3] = ["succeeded", "failed", "canceled"];

const COLUMNS: &[Column] = &[
    ("id", |job| text(&job["id"])),
    ("kind", |job| text(&job["object"])),
    ("status", |job| text(&job["status"])),
    ("before it", |job| text(&job["queue"]["position"])),
    ("done", done),
    ("left", |job| job["progress"]["eta_seconds"].as_f64().map_or(String::new(), duration)),
    ("since", |job| time(&job["created_at"])),
];

const ENDED_COLUMNS: &[Column] = &[
    ("id", |job| text(&job["id"])),
    ("kind", |job| text(&job["object"])),
    ("status", |job| text(&job["status"])),
    ("ended", |job| time(&job["finished_at"])),
    ("why", |job| text(&job["error"]["detail"])),
];

fn done(job: &Value) -> String {
    let steps = |field: &str| job["progress"][field].as_f64();
    match (steps("step"), steps("total_steps")) {
        (Some(step), Some(steps)) if steps > 0.0 => format!("{:.0} %", 100.0 * step / steps),
        _ => String::new(),
    }
}

/// # Errors
/// What the service refuses.
pub(super) async fn run(session: &Session, args: QueueArgs) -> Result<()> {
    let concept = args.concept.as_deref();
    let (jobs, columns, nothing) = if args.ended {
        (ended(session, concept, args.limit).await?, ENDED_COLUMNS, "nothing has ended")
    } else {
        (unfinished(session, concept).await?, COLUMNS, "nothing runs and nothing waits")
    };
    if session.out.json {
        return stdout::line(&json!({ "object": "list", "data": jobs }).to_string());
    }
    if jobs.is_empty() && session.out.is_terminal {
        return session.out.line(nothing);
    }
    session.out.table(&jobs, columns)
}

/// What runs, then what waits.
async fn unfinished(session: &Session, concept: Option<&str>) -> Result<Vec<Value>> {
    let mut jobs = Vec::new();
    for (state, kind) in lists(STATES) {
        let filters = [("status", Some(state)), ("concept", concept)];
        let mut after: Option<String> = None;
        loop {
            let page = read_page(session, &kind, &filters, LARGEST_LIMIT, after.as_deref());
            let page = page.await?.value;
            jobs.extend(data(&page)?.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(cursor) => after = Some(cursor.to_owned()),
                None => break,
            }
        }
    }
    Ok(jobs)
}

/// The newest jobs that have ended.
async fn ended(session: &Session, concept: Option<&str>, limit: u8) -> Result<Vec<Value>> {
    let mut jobs = Vec::new();
    for (state, kind) in lists(ENDED) {
        let filters = [("status", Some(state)), ("concept", concept)];
        let page = read_page(session, &kind, &filters, limit, None).await?;
        jobs.extend(data(&page.value)?.iter().cloned());
    }
    jobs.sort_by_key(|job| Reverse(text(&job["created_at"])));
    jobs.truncate(limit.into());
    Ok(jobs)
}

/// The lists of the service with jobs in these states: state by state, each kind.
fn lists<const N: usize>(
    states: [&'static str; N],
) -> impl Iterator<Item = (&'static str, String)> {
    states.into_iter().flat_map(|state| KINDS.map(|kind| (state, format!("/v1/{kind}"))))
}

/// # Errors
/// What the service refuses.
pub(super) async fn cancel(session: &Session, args: CancelArgs) -> Result<()> {
    for id in &args.ids {
        job_path(id)?;
    }
    each(&args.ids, async |id| {
        let path = format!("{}/cancel", job_path(id)?);
        let answer = session.client.change(Method::POST, &path, &Value::Null).await?;
        let status = text(&answer.value["status"]);
        session.out.done(&answer, id, &format!("{id} is {status}"))
    })
    .await
}
