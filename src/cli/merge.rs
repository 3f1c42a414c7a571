//! `vstar merge`: several deltas as one.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::body::{chosen, set};
use super::job::{JobOptions, Patience, Start};
use super::naming::concept_use;
use super::number::number;
use super::session::Session;

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
/// As for [`Start::run_to_delta`].
pub(super) async fn run(session: &Session, args: MergeArgs) -> Result<()> {
    let start = Start {
        path: "/v1/merges",
        body: args.recipe.body(),
        options: &args.job,
        patience: (!args.detach).then_some(&args.patience),
        prints_id: false,
    };
    start.run_to_delta(session).await
}
