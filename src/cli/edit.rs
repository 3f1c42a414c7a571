//! Labels, names and removals: what concepts, deltas and webhook endpoints have in common.

use std::io::{BufRead, IsTerminal};

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use super::exit::Usage;
use super::naming::label;
use super::output::text;
use super::session::Session;
use crate::client::Method;

/// Labels of your own.
#[derive(Clone, Debug, Args)]
pub(super) struct Labels {
    /// Your own id for it.
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// Takes your own id away.
    #[arg(long, conflicts_with = "external_id")]
    no_external_id: bool,
    /// Sets a text of your own; an empty VALUE takes it away. Can be repeated.
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = label)]
    metadata: Vec<(String, String)>,
}

impl Labels {
    /// Adds them to a merge patch (RFC 7396), in which null removes.
    pub(super) fn add_to(&self, patch: &mut Map<String, Value>) {
        if self.no_external_id {
            patch.insert("external_id".to_owned(), Value::Null);
        }
        if let Some(id) = &self.external_id {
            patch.insert("external_id".to_owned(), json!(id));
        }
        if !self.metadata.is_empty() {
            let texts = self.metadata.iter().map(|(key, value)| match value.as_str() {
                "" => (key.clone(), Value::Null),
                value => (key.clone(), json!(value)),
            });
            patch.insert("metadata".to_owned(), Value::Object(texts.collect()));
        }
    }
}

/// How something is deleted.
#[derive(Clone, Debug, Args)]
pub(super) struct Removal {
    /// Deletes what depends on it as well.
    #[arg(long)]
    cascade: bool,
    /// Asks no question.
    #[arg(long, short)]
    yes: bool,
}

/// Deletes things one after the other; on a terminal, each is asked for.
pub(super) async fn remove(
    session: &Session,
    collection: &str,
    names: &[String],
    removal: &Removal,
) -> Result<()> {
    for name in names {
        if !removal.yes && !is_confirmed(name)? {
            session.out.note(&format!("{name} stays"));
            continue;
        }
        let query = if removal.cascade { "?cascade=true" } else { "" };
        let path = format!("{collection}/{name}{query}");
        let answer = session.client.change(Method::DELETE, &path, &Value::Null).await?;
        session.out.done(&answer, name, &format!("{name} is deleted{}", with_it(&answer.value)))?;
    }
    Ok(())
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
