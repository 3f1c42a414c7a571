//! Lists of the service, page by page.

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::RangedI64ValueParser;
use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::output::Column;
use super::session::Session;
use crate::client::Answer;

/// Entries of a page, unless another number is asked for.
pub(super) const DEFAULT_LIMIT: u8 = 20;
/// The most that the service gives in one page.
pub(super) const LARGEST_LIMIT: u8 = 100;

/// Which part of a list.
#[derive(Clone, Debug, Args)]
pub(super) struct Page {
    /// The number of entries, newest first.
    #[arg(long, default_value_t = DEFAULT_LIMIT, value_parser = limits())]
    limit: u8,
    /// Where to go on: the cursor that the page before has ended with.
    #[arg(long, value_name = "CURSOR", conflicts_with = "all")]
    after: Option<String>,
    /// All entries. With --json, one page after the other.
    #[arg(long)]
    all: bool,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, after: None, all: false }
    }
}

/// The numbers of entries that a page can have.
pub(super) fn limits() -> RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=i64::from(LARGEST_LIMIT))
}

/// Shows a list.
///
/// - `filters`: query parameters; those without a value are left out
pub(super) async fn show(
    session: &Session,
    path: &str,
    filters: &[(&str, Option<&str>)],
    page: &Page,
    columns: &[Column],
) -> Result<()> {
    let mut after = page.after.clone();
    let mut objects = Vec::new();
    let cursor = loop {
        let limit = if page.all { LARGEST_LIMIT } else { page.limit };
        let answer = read_page(session, path, filters, limit, after.as_deref()).await?;
        if session.out.json {
            session.out.body(&answer)?;
        }
        objects.extend(data(&answer.value)?.iter().cloned());
        after = answer.value["next_cursor"].as_str().map(str::to_owned);
        if !page.all || after.is_none() {
            break after;
        }
    };
    if session.out.json {
        return Ok(());
    }
    session.out.table(&objects, columns)?;
    if let Some(cursor) = cursor {
        session.out.note(&format!("there are more: --all, or --after {cursor}"));
    }
    Ok(())
}

/// One page of a list.
pub(super) async fn read_page(
    session: &Session,
    path: &str,
    filters: &[(&str, Option<&str>)],
    limit: u8,
    after: Option<&str>,
) -> Result<Answer> {
    let mut query = Serializer::new(String::new());
    query.append_pair("limit", &limit.to_string());
    for (name, value) in filters.iter().copied().chain([("after", after)]) {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    session.client.read(&format!("{path}?{}", query.finish())).await
}

/// The entries of a page.
pub(super) fn data(page: &Value) -> Result<&Vec<Value>> {
    page["data"].as_array().context("the service's answer is not a list")
}
