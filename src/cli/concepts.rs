//! `vstar concepts`: what users teach.

use std::path::PathBuf;

use anyhow::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::check;
use super::edit::{Labels, Removal, patch, remove};
use super::exit::{Invalid, Usage};
use super::job::{Patience, follow, id_of, outcome, set};
use super::list::{self, Page};
use super::naming::{name, photos};
use super::output::{Column, text, time};
use super::session::{Connection, Session};
use super::train::TrainingOptions;
use crate::client::Method;

const CONCEPTS: &str = "/v1/concepts";

/// Files of one upload.
const AT_ONCE: usize = 20;

/// Concepts.
#[derive(Clone, Debug, Args)]
pub struct ConceptsArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Lists concepts.
    Ls {
        #[command(flatten)]
        page: Page,
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
        labels: Labels,
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

#[derive(Clone, Debug, Args)]
struct Create {
    /// The concept's name in commands and paths.
    handle: String,
    /// Photos, folders of photos, or zip archives.
    photos: Vec<PathBuf>,
    /// What kind of thing it is, such as dog.
    #[arg(long, value_name = "NOUN")]
    class: String,
    /// The word for it in prompts; `<HANDLE>` if left out.
    #[arg(long)]
    token: Option<String>,
    /// The class noun alone stands for it in prompts: for a class that the base model does not know.
    #[arg(long, conflicts_with = "token")]
    no_token: bool,
    #[command(flatten)]
    labels: Labels,
    /// Teaches it at once.
    #[arg(long)]
    train: bool,
    /// Waits for the end of the training, and shows how far it is.
    #[arg(long, short, requires = "train")]
    watch: bool,
    #[command(flatten, next_help_heading = "Training")]
    training: TrainingOptions,
    #[command(flatten)]
    patience: Patience,
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
pub(super) async fn run(args: ConceptsArgs) -> Result<()> {
    let session = Session::open(&args.connection);
    let command = args.command.unwrap_or(Command::Ls { page: Page::default(), external_id: None });
    let path = |concept: &str| format!("{CONCEPTS}/{concept}");
    match command {
        Command::Ls { page, external_id } => {
            let filters = [("external_id", external_id.as_deref())];
            list::show(&session, CONCEPTS, &filters, &page, COLUMNS).await
        }
        Command::Create(args) => create(&session, &args).await,
        Command::Add { concept, photos: given } => {
            let files = photos(&given)?;
            upload(&session, &concept, &files, true).await
        }
        Command::Show { concept } => show(&session, &path(&concept)).await,
        Command::Check { concept } => check::photos(&session, &concept).await,
        Command::Edit { concept, handle, labels } => {
            let mut body = Map::new();
            set(&mut body, "handle", json!(handle));
            labels.add_to(&mut body);
            patch(&session, &path(&concept), body).await
        }
        Command::Promote { concept, delta } => {
            let body = json!({ "delta": delta });
            change_delta(&session, &format!("{}/promote", path(&concept)), &body).await
        }
        Command::Rollback { concept } => {
            change_delta(&session, &format!("{}/rollback", path(&concept)), &Value::Null).await
        }
        Command::Rm { concepts, removal } => remove(&session, CONCEPTS, &concepts, &removal).await,
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

async fn create(session: &Session, args: &Create) -> Result<()> {
    let files = photos(&args.photos)?;
    if args.train && files.is_empty() {
        return Err(Error::new(Usage("--train needs photos to learn from".to_owned())));
    }
    let token = match (&args.token, args.no_token) {
        (_, true) => None,
        (Some(token), false) => Some(token.clone()),
        (None, false) => Some(format!("<{}>", args.handle)),
    };
    let mut body = Map::new();
    set(&mut body, "handle", json!(args.handle));
    set(&mut body, "class_noun", json!(args.class));
    set(&mut body, "modifier_token", json!(token));
    args.labels.add_to(&mut body);
    let created = session.client.create(CONCEPTS, &body.into()).await?;
    let id = id_of(&created.value)?;
    let answers_later = session.out.json && !files.is_empty();
    if !answers_later {
        let word = text(&created.value["modifier_token"]);
        let called = if word.is_empty() { text(&created.value["class_noun"]) } else { word };
        let sentence = format!("{} is created; prompts call it {called}", args.handle);
        session.out.done(&created, &id, &sentence)?;
    }
    if !files.is_empty() {
        upload(session, &id, &files, false).await.map_err(|error| when_created(error, args))?;
    }
    if args.train {
        return train(session, &id, args).await;
    }
    if answers_later {
        let concept = session.client.read(&format!("{CONCEPTS}/{id}")).await?;
        session.out.body(&concept)?;
    }
    Ok(())
}

/// The concept is there, so the same command would be refused.
fn when_created(error: Error, args: &Create) -> Error {
    if !error.is::<Invalid>() {
        return error;
    }
    let handle = &args.handle;
    let next = match args.train {
        true => format!("{error}; `vstar train {handle}` teaches it from the others"),
        false => format!("{error}; `vstar concepts add {handle} FILE` adds more"),
    };
    Error::new(Invalid(next))
}

async fn train(session: &Session, concept: &str, args: &Create) -> Result<()> {
    let body = args.training.body(&[concept.to_owned()]);
    let started = session.client.create("/v1/trainings", &body.into()).await?;
    session.out.warnings(&started.value);
    let id = id_of(&started.value)?;
    if !args.watch {
        session.out.note(&format!("{id} is queued: `vstar watch {id}` shows how far it is"));
        return if session.out.json { session.out.body(&started) } else { Ok(()) };
    }
    let ended = follow(session, &id, &args.patience).await?;
    session.out.note(&outcome(&ended.value));
    if session.out.json { session.out.body(&ended) } else { Ok(()) }
}

/// Uploads photos and says what was thought of each.
///
/// # Errors
/// [`Invalid`] if the service has taken some and rejected others.
async fn upload(
    session: &Session,
    concept: &str,
    files: &[PathBuf],
    is_result: bool,
) -> Result<()> {
    let path = format!("{CONCEPTS}/{concept}/images");
    let (mut accepted, mut rejected) = (0, 0);
    for batch in files.chunks(AT_ONCE) {
        let answer = session.client.upload_as(&path, "files", batch).await?;
        accepted += answer.value["accepted"].as_u64().unwrap_or(0);
        rejected += answer.value["rejected"].as_u64().unwrap_or(0);
        for photo in answer.value["data"].as_array().into_iter().flatten() {
            say(session, photo);
        }
        for ignored in answer.value["ignored"].as_array().into_iter().flatten() {
            let (file, why) = (text(&ignored["path"]), text(&ignored["detail"]));
            session.out.note(&format!("{file}: left out: {why}"));
        }
        if is_result && session.out.json {
            session.out.body(&answer)?;
        } else if is_result && !session.out.is_terminal {
            let photos = answer.value["data"].as_array().into_iter().flatten();
            for id in photos.filter_map(|photo| photo["image"]["id"].as_str()) {
                session.out.line(id)?;
            }
        }
    }
    session.out.note(&format!("{accepted} photos uploaded"));
    match rejected {
        0 => Ok(()),
        _ => Err(Error::new(Invalid(format!("{rejected} photos were rejected")))),
    }
}

/// What the service says of a photo, if it says anything.
fn say(session: &Session, photo: &Value) {
    let file = text(&photo["file_name"]);
    if let Some(detail) = photo["error"]["detail"].as_str() {
        session.out.note(&format!("{file}: rejected: {detail}"));
    }
    for finding in photo["findings"].as_array().into_iter().flatten() {
        let (verdict, detail) = (text(&finding["verdict"]), text(&finding["detail"]));
        session.out.note(&format!("{file}: {verdict}: {detail}"));
    }
}
