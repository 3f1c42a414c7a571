//! `vstar watch`: a job's progress until it has ended.

use anyhow::Result;
use clap::Args;

use super::job::{Patience, follow, outcome};
use super::naming::name;
use super::session::{Connection, Session};

/// Which job to follow.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// A training, sample, merge, evaluation or compression.
    #[arg(value_parser = name)]
    id: String,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    connection: Connection,
}

/// # Errors
/// As for [`follow`].
pub(super) async fn run(args: WatchArgs) -> Result<()> {
    let session = Session::open(&args.connection);
    let answer = follow(&session, &args.id, &args.patience).await?;
    let id = answer.value["delta"].as_str().unwrap_or(&args.id);
    session.out.done(&answer, id, &outcome(&answer.value))
}
