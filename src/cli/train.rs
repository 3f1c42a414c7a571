//! `vstar train`: teaches concepts.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::job::{JobOptions, Patience, follow, id_of, outcome, set, show_dry_run};
use super::naming::{name, object};
use super::number::{number, seed};
use super::session::{Connection, Session};

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
    #[command(flatten)]
    connection: Connection,
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

/// A choice as the service spells it; null for none.
pub(super) fn chosen<T: ValueEnum>(choice: Option<T>) -> Value {
    let value = choice.and_then(|choice| choice.to_possible_value());
    json!(value.map(|value| value.get_name().replace('-', "_")))
}

/// # Errors
/// What the service refuses; with `--watch`, as for [`follow`].
pub(super) async fn run(args: TrainArgs) -> Result<()> {
    let session = Session::open(&args.connection);
    let mut body = args.options.body(&args.concepts);
    args.job.add_to(&mut body);
    let started = session.client.create("/v1/trainings", &body.into()).await?;
    if args.job.dry_run {
        return show_dry_run(&session, &started);
    }
    session.out.warnings(&started.value);
    let id = id_of(&started.value)?;
    if !args.watch {
        let sentence = format!("{id} is queued: `vstar watch {id}` shows how far it is");
        return session.out.done(&started, &id, &sentence);
    }
    if !session.out.json {
        // At once, so that a script has it whatever happens.
        session.out.done(&started, &id, &format!("{id} is queued"))?;
    }
    let ended = follow(&session, &id, &args.patience).await?;
    if session.out.json {
        return session.out.body(&ended);
    }
    session.out.note(&outcome(&ended.value));
    Ok(())
}
