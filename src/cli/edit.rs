//! Labels, names and removals: what concepts, deltas and webhook endpoints have in common.

use std::io::{BufRead, IsTerminal};

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use super::body::set;
use super::each::each;
use super::exit::Usage;
use super::naming::label;
use super::output::text;
use super::session::Session;
use crate::client::Method;

/// Labels of your own, for something new.
#[derive(Clone, Debug, Args)]
pub(super) struct Labels {
    /// Your own id for it. A second one of its kind with the same id is refused.
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// A text of your own that is kept with it. Can be repeated.
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = label)]
    metadata: Vec<(String, String)>,
}

impl Labels {
    /// Adds them to a request that makes something.
    pub(super) fn add_to(&self, body: &mut Map<String, Value>) {
        set(body, "external_id", json!(self.external_id));
        if !self.metadata.is_empty() {
            set(body, "metadata", self.metadata.iter().cloned().collect());
        }
    }
}

/// How labels are changed.
#[derive(Clone, Debug, Args)]
pub(super) struct LabelChanges {
    /// Your own id for it. A second one of its kind with the same id is refused.
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// Takes your own id away.
    #[arg(long, conflicts_with = "external_id")]
    no_external_id: bool,
    /// Sets a text of your own; an empty VALUE takes it away. Can be repeated.
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = label)]
    metadata: Vec<(String, String)>,
}

impl LabelChanges {
    /// Adds them to a merge patch (RFC 7396), in which null removes.
    pub(super) fn add_to(&self, patch: &mut Map<String, Value>) {
        if self.no_external_id {
            patch.insert("external_id".to_owned(), Value::Null);
        }
        set(patch, "external_id", json!(self.external_id));
        if !self.metadata.is_empty() {
            let texts = self.metadata.iter().map(|(key, value)| match value.as_str() {
                "" => (key.clone(), Value::Null),
                value => (key.clone(), json!(value)),
            });
            patch.insert("metadata".to_owned(), Value::Object(texts.collect()));
        }
    }
}

/// Whether a deletion is asked for.
#[derive(Clone, Debug, Args)]
pub(super) struct Consent {
    /// Asks no question.
    #[arg(long, short)]
    yes: bool,
}

/// How something is deleted on which others can depend.
#[derive(Clone, Debug, Args)]
pub(super) struct Removal {
    /// Deletes what depends on it as well.
    #[arg(long)]
    cascade: bool,
    #[command(flatten)]
    pub(super) consent: Consent,
}

impl Removal {
    /// The query of the request.
    pub(super) fn query(&self) -> &'static str {
        if self.cascade { "?cascade=true" } else { "" }
    }
}

/// Deletes things one after the other; on a terminal, each is asked for.
///
/// - `query`: of each request, as by [`Removal::query`]
///
/// # Errors
/// As of [`each`].
pub(super) async fn remove(
    session: &Session,
    collection: &str,
    names: &[String],
    consent: &Consent,
    query: &str,
) -> Result<()> {
    each(names, async |name| {
        if !consent.yes && !is_confirmed(name)? {
            session.out.note(&format!("{name} stays"));
            return Ok(());
        }
        let path = format!("{collection}/{name}{query}");
        let answer = session.client.change(Method::DELETE, &path, &Value::Null).await?;
        session.out.done(&answer, name, &format!("{name} is deleted{}", with_it(&answer.value)))
    })
    .await
}

/// Where nobody can be asked, the command is meant as it is.
fn is_confirmed(name: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(true);
    }
    eprint!("delete {name}? [y/N] ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
}

/// What else has gone, such as `, with 5 photos and 1 trainings`.
fn with_it(deleted: &Value) -> String {
    let counts = deleted["removed"].as_object().into_iter().flatten();
    let gone = counts.filter(|(_, count)| count.as_u64().is_some_and(|count| count > 0));
    let gone: Vec<String> =
        gone.map(|(kind, count)| format!("{} {count}", kind.replace('_', " "))).collect();
    match gone.is_empty() {
        true => String::new(),
        false => format!(" ({})", gone.join(", ")),
    }
}

/// Sends a merge patch and shows the result.
///
/// # Errors
/// If there is nothing to change, or what the service refuses.
pub(super) async fn patch(session: &Session, path: &str, patch: Map<String, Value>) -> Result<()> {
    if patch.is_empty() {
        return Err(anyhow::Error::new(Usage("nothing to change: see --help".to_owned())));
    }
    let answer = session.client.change(Method::PATCH, path, &patch.into()).await?;
    let id = text(&answer.value["id"]);
    session.out.done(&answer, &id, &format!("{id} is changed"))
}
