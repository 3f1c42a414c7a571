//! `vstar keys`: API keys of the service.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::body::set;
use super::edit::{Consent, remove};
use super::list::{self, Page};
use super::naming::name;
use super::output::{Column, listed, text, time};
use super::session::Session;
use crate::client::Method;

const KEYS: &str = "/v1/api-keys";

/// API keys.
#[derive(Clone, Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Lists keys.
    Ls {
        #[command(flatten)]
        page: Page,
        /// Those of a project.
        #[arg(long, value_parser = name)]
        project: Option<String>,
    },
    /// Shows whose key is used here, and what it may do.
    Me,
    /// Makes a key. It is shown this once; in a pipe, standard output has it alone.
    Create {
        /// What the key is for.
        name: String,
        /// What it may do: read, concepts:write, trainings:write, samples:write, weights:read, webhooks:write, admin. Can be repeated.
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// The project it belongs to; that of the key that is used if left out.
        #[arg(long, value_parser = name)]
        project: Option<String>,
        /// When it ends, such as 2027-01-01T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// Makes a new secret for a key. The former one stays good for a while.
    Rotate {
        #[arg(value_parser = name)]
        key: String,
        /// Seconds for which the former secret stays good.
        #[arg(long, value_name = "SECONDS")]
        overlap: Option<u64>,
    },
    /// Deletes keys.
    Rm {
        #[arg(required = true, value_parser = name)]
        keys: Vec<String>,
        #[command(flatten)]
        consent: Consent,
    },
}

const COLUMNS: &[Column] = &[
    ("id", |key| text(&key["id"])),
    ("name", |key| text(&key["name"])),
    ("scopes", |key| listed(&key["scopes"], text)),
    ("project", |key| text(&key["project"])),
    ("last used", |key| time(&key["last_used_at"])),
    ("expires", |key| time(&key["expires_at"])),
];

/// # Errors
/// What the service refuses.
pub(super) async fn run(session: &Session, args: KeysArgs) -> Result<()> {
    let command = args.command.unwrap_or(Command::Ls { page: Page::default(), project: None });
    match command {
        Command::Ls { page, project } => {
            let filters = [("project", project.as_deref())];
            list::show(session, KEYS, &filters, &page, COLUMNS).await
        }
        Command::Me => me(session).await,
        Command::Create { name, scopes, project, expires_at } => {
            let mut body = Map::new();
            set(&mut body, "name", json!(name));
            set(&mut body, "scopes", json!(scopes));
            set(&mut body, "project", json!(project));
            set(&mut body, "expires_at", json!(expires_at));
            session.out.secret(&session.client.create(KEYS, &body.into()).await?)
        }
        Command::Rotate { key, overlap } => {
            let mut body = Map::new();
            set(&mut body, "overlap_seconds", json!(overlap));
            let path = format!("{KEYS}/{key}/rotate");
            let answer = session.client.change(Method::POST, &path, &Value::Object(body)).await?;
            session.out.secret(&answer)
        }
        Command::Rm { keys, consent } => remove(session, KEYS, &keys, &consent, "").await,
    }
}

async fn me(session: &Session) -> Result<()> {
    let answer = session.client.read("/v1/me").await?;
    if session.out.json {
        return session.out.body(&answer);
    }
    let me = &answer.value;
    session.out.properties(&[
        ("project", text(&me["project"]["name"])),
        ("project id", text(&me["project"]["id"])),
        ("key", text(&me["key"]["name"])),
        ("scopes", listed(&me["scopes"], text)),
    ])
}
