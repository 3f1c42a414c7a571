//! `vstar concepts`: what users teach.

mod create;
mod upload;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use self::create::Create;
use super::body::set;
use super::check;
use super::edit::{LabelChanges, Removal, patch, remove};
use super::input::photos;
use super::list::{self, Page};
use super::naming::name;
use super::output::{Column, text, time};
use super::session::Session;
use crate::client::Method;

const CONCEPTS: &str = "/v1/concepts";

/// Concepts.
#[derive(Clone, Debug, Args)]
pub struct ConceptsArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Lists concepts.
    Ls {
        #[command(flatten)]
        page: Page,
        /// Those whose handle, token or class has each word of this text.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// The one with your own id.
        #[arg(long, value_name = "ID")]
        external_id: Option<String>,
    },
    /// Creates a concept from photos, and teaches it on request.
    Create(Box<Create>),
    /// Adds photos to a concept.
    Add {
        #[arg(value_parser = name)]
        concept: String,
        /// Photos, folders of photos, or zip archives.
        #[arg(required = true)]
        photos: Vec<PathBuf>,
    },
    /// Shows a concept.
    Show {
        #[arg(value_parser = name)]
        concept: String,
    },
    /// Says how good a concept's photos are to learn from.
    Check {
        #[arg(value_parser = name)]
        concept: String,
    },
    /// Changes a concept's handle and labels.
    Edit {
        #[arg(value_parser = name)]
        concept: String,
        /// The new handle.
        #[arg(long)]
        handle: Option<String>,
        #[command(flatten)]
        labels: LabelChanges,
    },
    /// Makes a delta the concept's current one.
    Promote {
        #[arg(value_parser = name)]
        concept: String,
        #[arg(value_parser = name)]
        delta: String,
    },
    /// Goes back to the delta that was current before.
    Rollback {
        #[arg(value_parser = name)]
        concept: String,
    },
    /// Deletes concepts with their photos.
    Rm {
        #[arg(required = true, value_parser = name)]
        concepts: Vec<String>,
        #[command(flatten)]
        removal: Removal,
    },
}

const COLUMNS: &[Column] = &[
    ("handle", |concept| text(&concept["handle"])),
    ("token", |concept| text(&concept["modifier_token"])),
    ("class", |concept| text(&concept["class_noun"])),
    ("photos", |concept| text(&concept["image_count"])),
    ("current delta", |concept| text(&concept["current_delta"])),
    ("created", |concept| time(&concept["created_at"])),
];

/// # Errors
/// What the service refuses.
pub(super) async fn run(session: &Session, args: ConceptsArgs) -> Result<()> {
    let command = args.command.unwrap_or(Command::Ls {
        page: Page::default(),
        search: None,
        external_id: None,
    });
    let path = |concept: &str| format!("{CONCEPTS}/{concept}");
    match command {
        Command::Ls { page, search, external_id } => {
            let filters = [("q", search.as_deref()), ("external_id", external_id.as_deref())];
            list::show(session, CONCEPTS, &filters, &page, COLUMNS).await
        }
        Command::Create(args) => create::run(session, &args).await,
        Command::Add { concept, photos: given } => {
            let files = photos(&session.out, &given)?;
            upload::add(session, &concept, &files).await
        }
        Command::Show { concept } => show(session, &path(&concept)).await,
        Command::Check { concept } => check::photos(session, &concept).await,
        Command::Edit { concept, handle, labels } => {
            let mut body = Map::new();
            set(&mut body, "handle", json!(handle));
            labels.add_to(&mut body);
            patch(session, &path(&concept), body).await
        }
        Command::Promote { concept, delta } => {
            let body = json!({ "delta": delta });
            change_delta(session, &format!("{}/promote", path(&concept)), &body).await
        }
        Command::Rollback { concept } => {
            change_delta(session, &format!("{}/rollback", path(&concept)), &Value::Null).await
        }
        Command::Rm { concepts, removal } => {
            remove(session, CONCEPTS, &concepts, &removal.consent, removal.query()).await
        }
    }
}

async fn change_delta(session: &Session, path: &str, body: &Value) -> Result<()> {
    let answer = session.client.change(Method::POST, path, body).await?;
    let (handle, delta) = (text(&answer.value["handle"]), text(&answer.value["current_delta"]));
    session.out.done(&answer, &delta, &format!("{delta} is the current delta of {handle}"))
}

async fn show(session: &Session, path: &str) -> Result<()> {
    let answer = session.client.read(path).await?;
    if session.out.json {
        return session.out.body(&answer);
    }
    let concept = &answer.value;
    let metadata = concept["metadata"].as_object().filter(|metadata| !metadata.is_empty());
    session.out.properties(&[
        ("handle", text(&concept["handle"])),
        ("id", text(&concept["id"])),
        ("token", text(&concept["modifier_token"])),
        ("class", text(&concept["class_noun"])),
        ("photos", text(&concept["image_count"])),
        ("current delta", text(&concept["current_delta"])),
        ("created", time(&concept["created_at"])),
        ("external id", text(&concept["external_id"])),
        ("metadata", metadata.map_or(String::new(), |metadata| json!(metadata).to_string())),
    ])
}
