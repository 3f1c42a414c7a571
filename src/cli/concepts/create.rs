//! `vstar concepts create`: a concept with its photos, and on request its training.
//!
//! If an upload fails or no photo is accepted, the concept is deleted again with the photos that were accepted, so that the same command can
//! be repeated. Photos that are rejected do not matter as long as one is accepted.

use std::path::PathBuf;

use anyhow::{Error, Result};
use clap::Args;
use serde_json::{Map, Value, json};

use super::CONCEPTS;
use super::upload::{Uploaded, upload};
use crate::cli::body::set;
use crate::cli::edit::Labels;
use crate::cli::exit::{Hint, Interrupted, Invalid, Usage};
use crate::cli::input::photos;
use crate::cli::job::{Patience, follow, id_of, outcome, queued};
use crate::cli::output::text;
use crate::cli::session::Session;
use crate::cli::train::{TRAININGS, TrainingOptions};
use crate::client::{Answer, Method};

/// What to create, and from what.
#[derive(Clone, Debug, Args)]
pub(super) struct Create {
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

/// # Errors
/// If a file cannot be read, what the service refuses, and with `--watch` as for [`follow`].
pub(super) async fn run(session: &Session, args: &Create) -> Result<()> {
    let files = photos(&session.out, &args.photos)?;
    if args.train && files.is_empty() {
        return Err(Error::new(Usage("--train needs photos to learn from".to_owned())));
    }
    let created = session.client.create(CONCEPTS, &args.body().into()).await?;
    let id = id_of(&created.value)?;
    let uploaded = match files.is_empty() {
        true => Uploaded::default(),
        false => upload_or_delete(session, &id, &files, args).await?,
    };
    if !session.out.json {
        session.out.done(&created, &id, &args.sentence(&created))?;
    } else if !args.train || uploaded.rejected > 0 {
        let concept = match files.is_empty() {
            true => created,
            false => session.client.read(&format!("{CONCEPTS}/{id}")).await?,
        };
        session.out.body(&concept)?;
    }
    uploaded.complete().map_err(|error| error.context(args.with_the_others()))?;
    match args.train {
        true => train(session, &id, args).await,
        false => Ok(()),
    }
}

impl Create {
    fn body(&self) -> Map<String, Value> {
        let token = match (&self.token, self.no_token) {
            (_, true) => None,
            (Some(token), false) => Some(token.clone()),
            (None, false) => Some(format!("<{}>", self.handle)),
        };
        let mut body = Map::new();
        set(&mut body, "handle", json!(self.handle));
        set(&mut body, "class_noun", json!(self.class));
        set(&mut body, "modifier_token", json!(token));
        self.labels.add_to(&mut body);
        body
    }

    fn sentence(&self, created: &Answer) -> String {
        let word = text(&created.value["modifier_token"]);
        let called = if word.is_empty() { text(&created.value["class_noun"]) } else { word };
        format!("{} is created; prompts call it {called}", self.handle)
    }

    /// What can be done when some photos were rejected.
    fn with_the_others(&self) -> Hint {
        let handle = &self.handle;
        let next = match self.train {
            true => format!("`vstar train {handle}` teaches it from them"),
            false => format!("`vstar concepts add {handle} FILE` adds more"),
        };
        Hint(format!("{handle} is there with the other photos: {next}"))
    }
}

/// Uploads the photos of a concept that has just been created. If none is taken, or an upload fails, the concept is deleted.
async fn upload_or_delete(
    session: &Session,
    id: &str,
    files: &[PathBuf],
    args: &Create,
) -> Result<Uploaded> {
    let held = session.interrupts.hold();
    let uploaded = tokio::select! {
        uploaded = upload(session, id, files, |_| Ok(())) => uploaded,
        () = held.pressed() => Err(Error::new(Interrupted)),
    };
    let error = match uploaded {
        Ok(uploaded @ Uploaded { accepted: 1.., .. }) => return Ok(uploaded),
        Ok(uploaded) => match uploaded.complete() {
            Ok(()) => Error::new(Invalid("there was no photo in it".to_owned())),
            Err(error) => error,
        },
        Err(error) => error,
    };
    let path = format!("{CONCEPTS}/{id}");
    let handle = &args.handle;
    let deleted = tokio::select! {
        deleted = session.client.change(Method::DELETE, &path, &Value::Null) => deleted,
        () = held.pressed() => Err(Error::new(Interrupted)),
    };
    let hint = match deleted {
        Ok(_) => format!("{handle} was not created"),
        Err(_) => format!(
            "{handle} is there, without all of its photos: `vstar concepts rm {handle}` deletes it, `vstar concepts add {handle} FILE` adds them"
        ),
    };
    Err(error.context(Hint(hint)))
}

async fn train(session: &Session, concept: &str, args: &Create) -> Result<()> {
    let handle = &args.handle;
    let body = args.training.body(&[concept.to_owned()]);
    let started = session.client.create(TRAININGS, &body.into()).await.map_err(|error| {
        error.context(Hint(format!(
            "{handle} is there with its photos: `vstar train {handle}` teaches it"
        )))
    })?;
    session.out.warnings(&started.value);
    let id = id_of(&started.value)?;
    if !args.watch {
        session.out.note(&queued(&id));
        return if session.out.json { session.out.body(&started) } else { Ok(()) };
    }
    let ended = follow(session, &id, &args.patience).await?;
    session.out.note(&outcome(&ended.value));
    if session.out.json { session.out.body(&ended) } else { Ok(()) }
}
