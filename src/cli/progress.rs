//! How far a job is, on standard error: a bar on a terminal, a line for each tenth otherwise.

use std::cell::RefCell;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::output::{Output, duration, printable, text};
use crate::client::Seen;

/// The progress of one job.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    /// Whether lines are written where there is no bar.
    tells: bool,
    id: String,
    /// The last line, without its figures.
    told: RefCell<String>,
}

impl Progress {
    pub(super) fn new(out: &Output, id: &str) -> Self {
        let bar = (out.shows_progress() && out.notes_to_terminal)
            .then(|| ProgressBar::no_length().with_style(style("{prefix:11} {msg}")));
        let tells = out.shows_progress() && bar.is_none();
        Self { bar, tells, id: id.to_owned(), told: RefCell::default() }
    }

    /// Shows what is seen of the job.
    pub(super) fn see(&self, seen: &Seen<'_>) {
        match seen {
            Seen::Job(job) => self.show(job),
            Seen::Lost(_) => {
                self.say("no answer", "the service does not answer, it is asked again");
            }
        }
    }

    fn show(&self, job: &Value) {
        let progress = &job["progress"];
        let (step, steps) = (
            progress["step"].as_u64().unwrap_or(0),
            progress["total_steps"].as_u64().filter(|steps| *steps > 0),
        );
        if let (Some(bar), Some(steps)) = (&self.bar, steps) {
            if bar.length().is_none() {
                bar.set_style(style("{prefix:11} {wide_bar} {pos}/{len}  {msg}"));
            }
            bar.set_length(steps);
            bar.set_position(step);
        }
        let state = state(job);
        let figures = match job["status"].as_str() {
            Some("running") => figures(progress),
            _ => String::new(),
        };
        if self.bar.is_some() {
            return self.say(&state, &figures);
        }
        let tenths = steps.map_or(0, |steps| 10 * step / steps);
        let line = match steps {
            Some(steps) if step > 0 => format!("{step} of {steps}  {figures}"),
            Some(_) | None => String::new(),
        };
        self.tell(&format!("{state} {tenths}"), &state, &line);
    }

    fn say(&self, state: &str, note: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(state.to_owned());
                bar.set_message(note.to_owned());
            }
            None => self.tell(state, state, note),
        }
    }

    /// Writes a line if it says more than the last one.
    fn tell(&self, what: &str, state: &str, note: &str) {
        if self.tells && self.told.replace(what.to_owned()) != what {
            let line = format!("{}: {state}  {note}", self.id);
            eprintln!("{}", printable(line.trim_end()));
        }
    }

    /// Draws nothing until [`Self::resume`], so that a question can be asked on a line of its own.
    pub(super) fn pause(&self) {
        if let Some(bar) = &self.bar {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
    }

    pub(super) fn resume(&self) {
        if let Some(bar) = &self.bar {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What a job is doing, such as `optimizing`.
fn state(job: &Value) -> String {
    let status = text(&job["status"]);
    match (status.as_str(), job["phase"].as_str(), job["queue"]["position"].as_u64()) {
        ("running", Some(phase), _) => phase.to_owned(),
        ("queued", _, Some(1)) => "queued, 1 job before it".to_owned(),
        ("queued", _, Some(before @ 2..)) => format!("queued, {before} jobs before it"),
        _ => status,
    }
}

/// Loss and time left, as far as they are known.
fn figures(progress: &Value) -> String {
    let loss = progress["loss"].as_f64().map(|loss| format!("loss {loss:.4}"));
    let left = progress["eta_seconds"].as_f64().map(|left| format!("{} left", duration(left)));
    [loss, left].into_iter().flatten().collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_says_what_it_does_and_how_long_it_takes() {
        let job = json!({ "status": "running", "phase": "optimizing",
            "progress": { "step": 70, "total_steps": 700, "loss": 0.12345, "eta_seconds": 9.2 } });

        assert_eq!(state(&job), "optimizing");
        assert_eq!(figures(&job["progress"]), "loss 0.1235  0:09 left");
        let waiting = json!({ "status": "queued", "queue": { "position": 2 } });
        assert_eq!(state(&waiting), "queued, 2 jobs before it");
        assert_eq!(state(&json!({ "status": "queued", "queue": { "position": 0 } })), "queued");
    }
}
