//! `vstar webhooks`: who is told of events, and what became of it.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::body::{set, some};
use super::edit::{Consent, patch, remove};
use super::job::id_of;
use super::list::{self, Page};
use super::naming::name;
use super::output::{Column, listed, text, time};
use super::session::Session;
use crate::client::{Answer, Method};

const ENDPOINTS: &str = "/v1/webhook-endpoints";

/// Webhook endpoints.
#[derive(Clone, Debug, Args)]
pub struct WebhooksArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Lists endpoints.
    Ls {
        #[command(flatten)]
        page: Page,
    },
    /// Creates an endpoint. Its secret is shown this once; in a pipe, standard output has it alone.
    Create {
        url: String,
        /// Type of events to be told of, such as training.succeeded; all if left out. Can be repeated.
        #[arg(long = "event", value_name = "TYPE")]
        events: Vec<String>,
        /// What it is for.
        #[arg(long)]
        description: Option<String>,
    },
    /// Shows an endpoint.
    Show {
        #[arg(value_parser = name)]
        endpoint: String,
    },
    /// Changes an endpoint.
    Edit {
        #[arg(value_parser = name)]
        endpoint: String,
        #[arg(long)]
        url: Option<String>,
        /// Type of events to be told of from now on. Can be repeated.
        #[arg(long = "event", value_name = "TYPE")]
        events: Vec<String>,
        /// Sends again.
        #[arg(long)]
        enable: bool,
        /// Sends nothing until it is enabled.
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
    },
    /// Makes a new secret. Deliveries are signed with both for a day.
    RotateSecret {
        #[arg(value_parser = name)]
        endpoint: String,
    },
    /// Sends a test event.
    Test {
        #[arg(value_parser = name)]
        endpoint: String,
    },
    /// Lists what was sent to an endpoint.
    Deliveries {
        #[arg(value_parser = name)]
        endpoint: String,
        /// Those with a status: pending, succeeded, failed, canceled.
        #[arg(long)]
        status: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Sends a delivery again.
    Redeliver {
        #[arg(value_parser = name)]
        endpoint: String,
        #[arg(value_parser = name)]
        delivery: String,
    },
    /// Deletes endpoints.
    Rm {
        #[arg(required = true, value_parser = name)]
        endpoints: Vec<String>,
        #[command(flatten)]
        consent: Consent,
    },
}

const COLUMNS: &[Column] = &[
    ("id", |endpoint| text(&endpoint["id"])),
    ("enabled", |endpoint| text(&endpoint["enabled"])),
    ("events", |endpoint| match endpoint["event_types"].as_array() {
        Some(types) if !types.is_empty() => listed(&endpoint["event_types"], text),
        Some(_) | None => "all".to_owned(),
    }),
    ("url", |endpoint| text(&endpoint["url"])),
    ("disabled because", |endpoint| text(&endpoint["disabled_reason"])),
];

const DELIVERIES: &[Column] = &[
    ("id", |delivery| text(&delivery["id"])),
    ("event", |delivery| text(&delivery["event_type"])),
    ("of", |delivery| text(&delivery["object_id"])),
    ("status", |delivery| text(&delivery["status"])),
    ("tries", |delivery| delivery["attempts"].as_array().map_or(0, Vec::len).to_string()),
    ("created", |delivery| time(&delivery["created_at"])),
    ("reason", |delivery| text(&delivery["reason"])),
];

/// # Errors
/// What the service refuses.
pub(super) async fn run(session: &Session, args: WebhooksArgs) -> Result<()> {
    let client = &session.client;
    let path = |endpoint: &str| format!("{ENDPOINTS}/{endpoint}");
    match args.command.unwrap_or(Command::Ls { page: Page::default() }) {
        Command::Ls { page } => list::show(session, ENDPOINTS, &[], &page, COLUMNS).await,
        Command::Create { url, events, description } => {
            let mut body = Map::new();
            set(&mut body, "url", json!(url));
            set(&mut body, "event_types", some(&events));
            set(&mut body, "description", json!(description));
            session.out.secret(&client.create(ENDPOINTS, &body.into()).await?)
        }
        Command::Show { endpoint } => show(session, &path(&endpoint)).await,
        Command::Edit { endpoint, url, events, enable, disable } => {
            let mut body = Map::new();
            set(&mut body, "url", json!(url));
            set(&mut body, "event_types", some(&events));
            if enable || disable {
                set(&mut body, "enabled", json!(enable));
            }
            patch(session, &path(&endpoint), body).await
        }
        Command::RotateSecret { endpoint } => {
            let path = format!("{}/rotate-secret", path(&endpoint));
            session.out.secret(&client.change(Method::POST, &path, &Value::Null).await?)
        }
        Command::Test { endpoint } => {
            let path = format!("{}/test", path(&endpoint));
            queued(session, &client.create(&path, &Value::Null).await?)
        }
        Command::Deliveries { endpoint, status, page } => {
            let filters = [("status", status.as_deref())];
            let path = format!("{}/deliveries", path(&endpoint));
            list::show(session, &path, &filters, &page, DELIVERIES).await
        }
        Command::Redeliver { endpoint, delivery } => {
            let path = format!("{}/deliveries/{delivery}/redeliver", path(&endpoint));
            queued(session, &client.create(&path, &Value::Null).await?)
        }
        Command::Rm { endpoints, consent } => {
            remove(session, ENDPOINTS, &endpoints, &consent, "").await
        }
    }
}

fn queued(session: &Session, answer: &Answer) -> Result<()> {
    let id = id_of(&answer.value)?;
    session.out.done(answer, &id, &format!("{id} is sent soon"))
}

async fn show(session: &Session, path: &str) -> Result<()> {
    let answer = session.client.read(path).await?;
    if session.out.json {
        return session.out.body(&answer);
    }
    let endpoint = &answer.value;
    session.out.properties(&[
        ("id", text(&endpoint["id"])),
        ("url", text(&endpoint["url"])),
        ("enabled", text(&endpoint["enabled"])),
        ("disabled because", text(&endpoint["disabled_reason"])),
        ("failing since", time(&endpoint["failing_since"])),
        ("events", listed(&endpoint["event_types"], text)),
        ("description", text(&endpoint["description"])),
        ("created", time(&endpoint["created_at"])),
    ])
}
