//! Photos on their way to a concept, and what the service thinks of each.

use std::path::PathBuf;

use anyhow::{Error, Result};
use serde_json::Value;

use super::CONCEPTS;
use crate::cli::exit::Invalid;
use crate::cli::output::{counted, text};
use crate::cli::session::Session;
use crate::client::{Answer, Refused};

/// Files of one request.
const AT_ONCE: usize = 20;

/// How many photos the service has taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uploaded {
    pub(super) accepted: u64,
    pub(super) rejected: u64,
}

impl Uploaded {
    /// # Errors
    /// [`Invalid`] if a photo was rejected.
    pub(super) fn complete(self) -> Result<()> {
        let rejected = match (self.accepted, self.rejected) {
            (_, 0) => return Ok(()),
            (0, 1) => "the photo was rejected".to_owned(),
            (0, rejected) => format!("all {rejected} photos were rejected"),
            (_, 1) => "1 photo was rejected".to_owned(),
            (_, rejected) => format!("{rejected} photos were rejected"),
        };
        Err(Error::new(Invalid(rejected)))
    }
}

/// Adds photos to a concept: `vstar concepts add`.
///
/// # Errors
/// [`Invalid`] if a photo was rejected; otherwise what the service refuses.
pub(super) async fn add(session: &Session, concept: &str, files: &[PathBuf]) -> Result<()> {
    let out = &session.out;
    let uploaded = upload(session, concept, files, |answer| {
        if out.json {
            return out.body(answer);
        }
        let photos = answer.value["data"].as_array().into_iter().flatten();
        let mut ids = photos.filter_map(|photo| photo["image"]["id"].as_str());
        // A terminal has the sentences.
        if out.is_terminal { Ok(()) } else { ids.try_for_each(|id| out.line(id)) }
    });
    uploaded.await?.complete()
}

/// Uploads photos, says what is thought of each, and calls `see` with each answer.
///
/// # Errors
/// What the service refuses as a whole, and those of `see`.
pub(super) async fn upload(
    session: &Session,
    concept: &str,
    files: &[PathBuf],
    see: impl Fn(&Answer) -> Result<()>,
) -> Result<Uploaded> {
    let path = format!("{CONCEPTS}/{concept}/images");
    let mut uploaded = Uploaded::default();
    for batch in files.chunks(AT_ONCE) {
        let answer = match session.client.upload_as(&path, "files", batch).await {
            Ok(answer) => answer,
            Err(error) => {
                uploaded.rejected += say_rejected(session, batch, &error).ok_or(error)?;
                continue;
            }
        };
        uploaded.accepted += answer.value["accepted"].as_u64().unwrap_or(0);
        uploaded.rejected += answer.value["rejected"].as_u64().unwrap_or(0);
        for photo in answer.value["data"].as_array().into_iter().flatten() {
            say(session, photo);
        }
        for ignored in answer.value["ignored"].as_array().into_iter().flatten() {
            let (file, why) = (text(&ignored["path"]), text(&ignored["detail"]));
            session.out.note(&format!("{file}: left out: {why}"));
        }
        see(&answer)?;
    }
    if uploaded.accepted > 0 {
        session.out.note(&format!("{} uploaded", counted(uploaded.accepted, "photo")));
    }
    Ok(uploaded)
}

/// Says what is wrong with each file if the service has refused a request because of all of them, and returns how many that are.
/// `None` if it has another reason.
fn say_rejected(session: &Session, batch: &[PathBuf], error: &Error) -> Option<u64> {
    let problem = error.downcast_ref::<Refused>()?.problem.as_ref()?;
    let rejected: Option<Vec<_>> = problem
        .errors
        .iter()
        .map(|field| {
            let index: usize = field.pointer.strip_prefix("/files/")?.parse().ok()?;
            Some((batch.get(index)?, &field.detail))
        })
        .collect();
    let rejected = rejected.filter(|rejected| !rejected.is_empty())?;
    for (file, detail) in &rejected {
        let name = file.file_name().unwrap_or_default().display();
        session.out.note(&format!("{name}: rejected: {detail}"));
    }
    Some(rejected.len() as u64)
}

/// What the service says of a photo, if it says anything.
fn say(session: &Session, photo: &Value) {
    let file = text(&photo["file_name"]);
    if let Some(detail) = photo["error"]["detail"].as_str() {
        // The findings repeat it.
        return session.out.note(&format!("{file}: rejected: {detail}"));
    }
    for finding in photo["findings"].as_array().into_iter().flatten() {
        let (verdict, detail) = (text(&finding["verdict"]), text(&finding["detail"]));
        session.out.note(&format!("{file}: {verdict}: {detail}"));
    }
}
