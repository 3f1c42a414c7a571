//! `vstar queue`, `vstar cancel`: what runs, what waits, and how it ends.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::list::{LARGEST_LIMIT, data, read_page};
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

const COLUMNS: &[Column] = &[
    ("id", |job| text(&job["id"])),
    ("kind", |job| text(&job["object"])),
    ("status", |job| text(&job["status"])),
    ("before it", |job| text(&job["queue"]["position"])),
    ("done", done),
    ("left", |job| job["progress"]["eta_seconds"].as_f64().map_or(String::new(), duration)),
    ("since", |job| time(&job["created_at"])),
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
    let mut jobs = Vec::new();
    for state in STATES {
        for kind in KINDS {
            let filters = [("status", Some(state)), ("concept", args.concept.as_deref())];
            let path = format!("/v1/{kind}");
            let mut after: Option<String> = None;
            loop {
                let page = read_page(session, &path, &filters, LARGEST_LIMIT, after.as_deref())
                    .await?
                    .value;
                jobs.extend(data(&page)?.iter().cloned());
                match page["next_cursor"].as_str() {
                    Some(cursor) => after = Some(cursor.to_owned()),
                    None => break,
                }
            }
        }
    }
    if session.out.json {
        return stdout::line(&json!({ "object": "list", "data": jobs }).to_string());
    }
    if jobs.is_empty() && session.out.is_terminal {
        return session.out.line("nothing runs and nothing waits");
    }
    session.out.table(&jobs, COLUMNS)
}

/// # Errors
/// What the service refuses.
pub(super) async fn cancel(session: &Session, args: CancelArgs) -> Result<()> {
    let paths = args.ids.iter().map(|id| job_path(id)).collect::<Result<Vec<_>>>()?;
    for (id, path) in args.ids.iter().zip(paths) {
        let path = format!("{path}/cancel");
        let answer = session.client.change(Method::POST, &path, &Value::Null).await?;
        let status = text(&answer.value["status"]);
        session.out.done(&answer, id, &format!("{id} is {status}"))?;
    }
    Ok(())
}
