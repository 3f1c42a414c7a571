//! Starting and following a job: its dry run, its progress, Ctrl-C, and how long it may take.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::body::{chosen, set};
use super::edit::Labels;
use super::exit::{Detached, TimedOut};
use super::interrupt::Held;
use super::naming::job_path;
use super::number::number;
use super::output::text;
use super::progress::Progress;
use super::session::Session;
use crate::client::{Answer, Method, Refused, StatusCode, succeeded};

/// How long a job is followed.
#[derive(Clone, Debug, Args)]
pub(super) struct Patience {
    /// Seconds after which the job is no longer followed. It goes on.
    #[arg(long, value_name = "SECONDS", value_parser = number)]
    timeout: Option<f64>,
}

/// What every job can be given.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Job")]
pub(super) struct JobOptions {
    /// How urgent it is among jobs of its kind.
    #[arg(long, value_enum)]
    priority: Option<Priority>,
    /// Seconds after which the job fails if it has not ended.
    #[arg(long, value_name = "SECONDS")]
    finish_within: Option<u64>,
    #[command(flatten)]
    labels: Labels,
    /// Makes nothing: says how long it would take, and what is unusual about it.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Priority {
    High,
    Normal,
    Low,
}

impl JobOptions {
    /// Adds them to a request's body.
    fn add_to(&self, body: &mut Map<String, Value>) {
        set(body, "priority", chosen(self.priority));
        set(body, "finish_within_seconds", json!(self.finish_within));
        self.labels.add_to(body);
        if self.dry_run {
            set(body, "dry_run", json!(true));
        }
    }
}

/// A job that a command starts.
pub(super) struct Start<'a> {
    /// Where it is created, such as `/v1/merges`.
    pub(super) path: &'a str,
    /// The request, without [`Self::options`].
    pub(super) body: Map<String, Value>,
    pub(super) options: &'a JobOptions,
    /// How long it is followed; `None` if the command ends when the job is queued.
    pub(super) patience: Option<&'a Patience>,
    /// Whether its id is a result of the command, and printed before the job ends, so that a script has it whatever happens.
    pub(super) prints_id: bool,
}

impl Start<'_> {
    /// Starts the job and follows it until it has succeeded. `None` if the command is done without that: after a dry run, or when the
    /// job is queued and not followed.
    ///
    /// # Errors
    /// What the service refuses, and as for [`follow`].
    pub(super) async fn run(mut self, session: &Session) -> Result<Option<Answer>> {
        let out = &session.out;
        self.options.add_to(&mut self.body);
        let started = session.client.create(self.path, &self.body.into()).await?;
        out.warnings(&started.value);
        if self.options.dry_run {
            show_dry_run(session, &started)?;
            return Ok(None);
        }
        let id = id_of(&started.value)?;
        let Some(patience) = self.patience else {
            out.done(&started, &id, &queued(&id))?;
            return Ok(None);
        };
        if self.prints_id && !out.json {
            out.done(&started, &id, &format!("{id} is queued"))?;
        }
        follow(session, &id, patience).await.map(Some)
    }

    /// The same for a job that makes a delta, which is shown.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub(super) async fn run_to_delta(self, session: &Session) -> Result<()> {
        let Some(ended) = self.run(session).await? else { return Ok(()) };
        session.out.done(&ended, &made_by(&ended.value), &outcome(&ended.value))
    }
}

/// What is said of a job that is not followed.
pub(super) fn queued(id: &str) -> String {
    format!("{id} is queued: `vstar watch {id}` shows how far it is")
}

/// Shows the answer to a dry run.
fn show_dry_run(session: &Session, answer: &Answer) -> Result<()> {
    if session.out.json {
        return session.out.body(answer);
    }
    let estimate = &answer.value["estimate"];
    let seconds = |field: &str| estimate[field].as_f64().unwrap_or(0.0);
    let ahead = estimate["jobs_ahead"].as_u64().unwrap_or(0);
    let mut sentence = format!(
        "it would take about {:.0} s, after {:.0} s in the queue ({ahead} before it); nothing was made",
        seconds("run_seconds"),
        seconds("queue_seconds"),
    );
    if estimate["measured_jobs"] == 0 {
        sentence += "; a guess: no such job has run yet";
    }
    session.out.line(&sentence)
}

/// Follows a job until it has succeeded. Ctrl-C asks whether to cancel it; where nobody can be asked, the job goes on alone.
///
/// # Errors
/// [`crate::client::JobEnded`] if it failed or was canceled; [`TimedOut`]; [`Detached`].
pub(super) async fn follow(session: &Session, id: &str, patience: &Patience) -> Result<Answer> {
    let path = job_path(id)?;
    let progress = Progress::new(&session.out, id);
    let held = session.interrupts.hold();
    let seconds = patience.timeout.unwrap_or(f64::INFINITY);
    let limit =
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(u64::from(u32::MAX)));
    let timeout = tokio::time::sleep(limit);
    let followed = session.client.follow(&path, |seen| progress.see(&seen));
    tokio::pin!(followed, timeout);
    let ended = loop {
        tokio::select! {
            answer = &mut followed => break answer,
            () = &mut timeout => break Err(Error::new(TimedOut { id: id.to_owned(), seconds })),
            () = held.pressed() => match ask(&held, &progress, id).await {
                Choice::GoOn => progress.resume(),
                Choice::Leave => break Err(Error::new(Detached(id.to_owned()))),
                Choice::Cancel => {
                    progress.resume();
                    let cancel = format!("{path}/cancel");
                    let canceled = tokio::select! {
                        canceled = session.client.change(Method::POST, &cancel, &Value::Null) => canceled,
                        () = held.pressed() => Err(Error::new(Detached(id.to_owned()))),
                    };
                    match canceled {
                        Err(error) if !has_ended_meanwhile(&error) => break Err(error),
                        // How it ends is seen in any case.
                        Ok(_) | Err(_) => {}
                    }
                }
            },
        }
    };
    progress.end();
    let answer = ended?;
    session.out.warnings(&answer.value);
    succeeded(&path, &answer.value)?;
    Ok(answer)
}

/// Whether a job could not be canceled because it has ended.
fn has_ended_meanwhile(error: &Error) -> bool {
    let refused = error.downcast_ref::<Refused>();
    refused.is_some_and(|refused| refused.status == StatusCode::CONFLICT)
}

/// What a user wants of a job.
enum Choice {
    GoOn,
    Leave,
    Cancel,
}

async fn ask(held: &Held<'_>, progress: &Progress, id: &str) -> Choice {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Choice::Leave;
    }
    progress.pause();
    eprint!("\ncancel {id}? y: yes, n: no, go on watching, d: no, leave it running: ");
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|length| (length, line))
    });
    tokio::select! {
        () = held.pressed() => {
            eprintln!();
            Choice::Leave
        }
        line = line => match line {
            Ok(Ok((1.., line))) => match line.trim().to_lowercase().as_str() {
                "y" | "yes" => Choice::Cancel,
                "d" => Choice::Leave,
                _ => Choice::GoOn,
            },
            // The terminal is gone, or Ctrl-D.
            Ok(_) | Err(_) => Choice::Leave,
        },
    }
}

/// The id of what was made.
pub(super) fn id_of(body: &Value) -> Result<String> {
    body["id"].as_str().map(str::to_owned).context("the service's answer has no id")
}

/// How long a job has run, as a sentence's end.
pub(super) fn ran(job: &Value) -> String {
    let at = |field: &str| chrono::DateTime::parse_from_rfc3339(job[field].as_str()?).ok();
    match (at("started_at"), at("finished_at")) {
        (Some(start), Some(end)) => {
            format!(" in {:.1} s", (end - start).num_milliseconds() as f64 / 1000.0)
        }
        _ => String::new(),
    }
}

/// The id of what a job that succeeded has made: its delta's, or its own if it has none.
pub(super) fn made_by(job: &Value) -> String {
    text(if job["delta"].is_string() { &job["delta"] } else { &job["id"] })
}

/// What has become of a job that succeeded.
pub(super) fn outcome(job: &Value) -> String {
    let id = text(&job["id"]);
    let made = match (job["delta"].as_str(), job["images"].as_array()) {
        (Some(delta), _) => format!(": delta {delta}"),
        (None, Some(images)) => format!(": {} images", images.len()),
        (None, None) => String::new(),
    };
    format!("{id} succeeded{}{made}", ran(job))
}
