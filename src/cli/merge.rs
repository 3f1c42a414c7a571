//! `vstar merge`: several deltas as one.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::job::{JobOptions, Patience, follow, id_of, outcome, set, show_dry_run};
use super::naming::concept_use;
use super::number::number;
use super::session::{Connection, Session};
use super::train::chosen;

/// What to merge, and how.
#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    #[command(flatten)]
    recipe: MergeRecipe,
    /// Returns when the merge is queued.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    job: JobOptions,
    #[command(flatten)]
    connection: Connection,
}

/// Deltas and how they are put together.
#[derive(Clone, Debug, Args)]
pub(super) struct MergeRecipe {
    /// Concept (its current delta) or delta, with an optional strength: `rex`, `rex@0.8`, `dlt_…`.
    #[arg(required = true, value_name = "CONCEPT", value_parser = concept_use)]
    pub(super) concepts: Vec<Value>,
    /// How firmly each concept is preserved.
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Weight of the soft constraints.
    #[arg(long, value_name = "WEIGHT", value_parser = number)]
    constraint_weight: Option<f64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    Soft,
    Hard,
}

impl MergeRecipe {
    pub(super) fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        set(&mut body, "concepts", json!(self.concepts));
        set(&mut body, "method", chosen(self.method));
        set(&mut body, "constraint_weight", json!(self.constraint_weight));
        body
    }
}

/// # Errors
/// What the service refuses, and as for [`follow`].
pub(super) async fn run(args: MergeArgs) -> Result<()> {
    let session = Session::open(&args.connection);
    let mut body = args.recipe.body();
    args.job.add_to(&mut body);
    let started = session.client.create("/v1/merges", &body.into()).await?;
    if args.job.dry_run {
        return show_dry_run(&session, &started);
    }
    let id = id_of(&started.value)?;
    if args.detach {
        session.out.warnings(&started.value);
        let sentence = format!("{id} is queued: `vstar watch {id}` shows how far it is");
        return session.out.done(&started, &id, &sentence);
    }
    let ended = follow(&session, &id, &args.patience).await?;
    let delta = ended.value["delta"].as_str().unwrap_or(&id);
    session.out.done(&ended, delta, &outcome(&ended.value))
}
