//! `vstar check`: what a concept's photos are worth, and how well concepts go together, before anything is made.

use anyhow::{Error, Result};
use clap::Args;
use serde_json::Value;

use super::exit::Usage;
use super::merge::MergeRecipe;
use super::output::{Column, listed, text};
use super::session::Session;

/// One concept, or several.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    recipe: MergeRecipe,
}

const PHOTOS: &[Column] = &[
    ("photo", |photo| text(&photo["file_name"])),
    ("verdict", |photo| text(&photo["photo"]["verdict"])),
    ("size", |photo| format!("{}×{}", photo["width"], photo["height"])),
    ("findings", |photo| listed(&photo["photo"]["findings"], |finding| text(&finding["detail"]))),
];

const PAIRS: &[Column] = &[
    ("deltas", |pair| listed(&pair["deltas"], text)),
    ("verdict", |pair| text(&pair["verdict"])),
    ("overlap", |pair| {
        pair["overlap"].as_f64().map_or(String::new(), |share| format!("{share:.3}"))
    }),
    ("advice", |pair| text(&pair["recommended"]["detail"])),
];

/// # Errors
/// What the service refuses.
pub(super) async fn run(session: &Session, args: CheckArgs) -> Result<()> {
    match args.recipe.concepts.as_slice() {
        [one] => match one["concept"].as_str() {
            Some(concept) => photos(session, concept).await,
            None => Err(Error::new(Usage(
                "a delta has no photos: name its concept, or several to merge".to_owned(),
            ))),
        },
        _ => together(session, &args.recipe).await,
    }
}

/// The photos of a concept.
pub(super) async fn photos(session: &Session, concept: &str) -> Result<()> {
    let answer = session.client.read(&format!("/v1/concepts/{concept}/check")).await?;
    if session.out.json {
        return session.out.body(&answer);
    }
    let check = &answer.value;
    let photos: &[Value] = check["data"].as_array().map_or(&[], Vec::as_slice);
    session.out.rows(photos, PHOTOS)?;
    for finding in check["findings"].as_array().into_iter().flatten() {
        session.out.line(&format!(
            "{}: {}",
            text(&finding["verdict"]),
            text(&finding["detail"])
        ))?;
    }
    session.out.line(&format!("{} photos: {}", check["image_count"], text(&check["verdict"])))
}

async fn together(session: &Session, recipe: &MergeRecipe) -> Result<()> {
    let answer = session.client.create("/v1/merges/check", &recipe.body().into()).await?;
    if session.out.json {
        return session.out.body(&answer);
    }
    let check = &answer.value;
    let pairs: &[Value] = check["pairs"].as_array().map_or(&[], Vec::as_slice);
    session.out.rows(pairs, PAIRS)?;
    let advice = text(&check["recommended"]["detail"]);
    session.out.line(&format!("{}: {advice}", text(&check["verdict"])))
}
