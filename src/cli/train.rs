//! `vstar train`: teaches concepts.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::body::{chosen, set};
use super::job::{JobOptions, Patience, Start, outcome};
use super::naming::{name, object};
use super::number::{number, seed};
use super::session::Session;

/// Where trainings are created.
pub(super) const TRAININGS: &str = "/v1/trainings";

/// What to teach, and how.
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// Concept to teach, by its handle or id; several are learned jointly.
    #[arg(required = true, value_name = "CONCEPT", value_parser = name)]
    concepts: Vec<String>,
    #[command(flatten)]
    options: TrainingOptions,
    /// Waits for the end, and shows how far it is.
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    job: JobOptions,
}

/// The recipe, as far as it differs from the base model's own.
#[derive(Clone, Debug, Args)]
pub(super) struct TrainingOptions {
    /// Random seed, a whole number. The service chooses one if it is left out.
    #[arg(long, value_parser = seed, allow_hyphen_values = true)]
    seed: Option<u64>,
    /// Training steps.
    #[arg(long, value_name = "STEPS")]
    steps: Option<u64>,
    /// Learning rate, such as 1e-5.
    #[arg(long, value_name = "RATE", value_parser = number)]
    learning_rate: Option<f64>,
    /// The recipe to start from.
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Further fields of the recipe, such as `{"rank": 8}`.
    #[arg(long, value_name = "JSON", value_parser = object)]
    recipe: Option<Value>,
    /// Whether the result becomes the concepts' current delta; `auto`: if a concept has none yet.
    #[arg(long, value_enum)]
    promote: Option<Promote>,
    /// Delta to go on from instead of the base model.
    #[arg(long, value_name = "DELTA", value_parser = name)]
    start_from: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Preset {
    Default,
    Paper,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Promote {
    Auto,
    Always,
    Never,
}

impl TrainingOptions {
    /// The body of a request that teaches these concepts.
    pub(super) fn body(&self, concepts: &[String]) -> Map<String, Value> {
        let mut recipe = match &self.recipe {
            Some(Value::Object(fields)) => fields.clone(),
            Some(_) | None => Map::new(),
        };
        set(&mut recipe, "max_train_steps", json!(self.steps));
        set(&mut recipe, "learning_rate", json!(self.learning_rate));
        let mut body = Map::new();
        set(&mut body, "concepts", json!(concepts));
        set(&mut body, "seed", json!(self.seed));
        set(&mut body, "preset", chosen(self.preset));
        set(&mut body, "promote", chosen(self.promote));
        set(&mut body, "start_from", json!(self.start_from));
        if !recipe.is_empty() {
            body.insert("recipe".to_owned(), recipe.into());
        }
        body
    }
}

/// # Errors
/// As for [`Start::run`].
pub(super) async fn run(session: &Session, args: TrainArgs) -> Result<()> {
    let start = Start {
        path: TRAININGS,
        body: args.options.body(&args.concepts),
        options: &args.job,
        patience: args.watch.then_some(&args.patience),
        prints_id: true,
    };
    let Some(ended) = start.run(session).await? else { return Ok(()) };
    if session.out.json {
        return session.out.body(&ended);
    }
    session.out.note(&outcome(&ended.value));
    Ok(())
}
