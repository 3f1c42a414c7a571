//! `vstar watch`: a job's progress until it has ended, and on request its files.

use std::path::PathBuf;

use anyhow::{Error, Result};
use clap::Args;

use super::exit::Usage;
use super::job::{Patience, follow, made_by, outcome};
use super::naming::name;
use super::place::{self, Place};
use super::session::Session;
use super::{evaluate, sample};

/// Which job to follow, and where to save what it has made.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// A training, sample, merge, evaluation or compression.
    #[arg(value_parser = name)]
    id: String,
    /// Saves the images of a sample or the files of an evaluation, as `vstar sample -o` and `vstar evaluate -o` do.
    #[arg(long, short, value_name = "FOLDER|FILE.png")]
    out: Option<PathBuf>,
    #[command(flatten)]
    patience: Patience,
}

/// # Errors
/// If a file cannot be written, and as for [`follow`].
pub(super) async fn run(session: &Session, args: WatchArgs) -> Result<()> {
    let id = &args.id;
    let Some(out) = &args.out else {
        let answer = follow(session, id, &args.patience).await?;
        return session.out.done(&answer, &made_by(&answer.value), &outcome(&answer.value));
    };
    match id.split_once('_').map(|(kind, _)| kind) {
        Some("smp") => {
            let place = Place::at(out)?;
            sample::save(session, &follow(session, id, &args.patience).await?, &place).await
        }
        Some("evl") => {
            place::folder(out)?;
            evaluate::save(session, &follow(session, id, &args.patience).await?, out).await
        }
        Some(_) | None => Err(Error::new(Usage(format!(
            "-o saves the files of samples and evaluations, and `{id}` is neither: `vstar deltas download` saves a delta"
        )))),
    }
}
