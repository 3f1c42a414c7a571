//! `vstar deltas`: what trainings, merges and compressions have made.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Map, json};

use super::body::set;
use super::edit::{LabelChanges, Removal, patch, remove};
use super::job::{JobOptions, Patience, Start};
use super::list::{self, Page};
use super::naming::name;
use super::number::number;
use super::output::{Column, listed, size, text, time};
use super::place;
use super::session::Session;

const DELTAS: &str = "/v1/deltas";

/// Deltas.
#[derive(Clone, Debug, Args)]
pub struct DeltasArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Lists deltas.
    Ls {
        #[command(flatten)]
        page: Page,
        /// Those that contain a concept.
        #[arg(long, value_parser = name)]
        concept: Option<String>,
    },
    /// Shows a delta.
    Show {
        #[arg(value_parser = name)]
        delta: String,
    },
    /// Saves a delta as a file of the safetensors format.
    Download {
        #[arg(value_parser = name)]
        delta: String,
        /// The file; named after the delta's id if left out.
        #[arg(long, short)]
        out: Option<PathBuf>,
        /// Whole matrices, for other programs, also where the delta is stored factorized.
        #[arg(long)]
        dense: bool,
    },
    /// Makes a smaller delta from one, and waits for it.
    Compress(Box<Compress>),
    /// Changes a delta's labels.
    Edit {
        #[arg(value_parser = name)]
        delta: String,
        #[command(flatten)]
        labels: LabelChanges,
    },
    /// Deletes deltas.
    Rm {
        #[arg(required = true, value_parser = name)]
        deltas: Vec<String>,
        #[command(flatten)]
        removal: Removal,
    },
}

#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("kept").required(true)))]
struct Compress {
    #[arg(value_parser = name)]
    delta: String,
    /// The number of singular values to keep of each matrix's change.
    #[arg(long, group = "kept")]
    rank: Option<u64>,
    /// The share of the singular values' sum to keep, above 0 and up to 1. The paper keeps 0.6.
    #[arg(long, value_name = "SHARE", value_parser = number, group = "kept")]
    energy: Option<f64>,
    /// Makes the result the current delta of its concepts.
    #[arg(long)]
    make_current: bool,
    /// Returns when the compression is queued.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    job: JobOptions,
}

const COLUMNS: &[Column] = &[
    ("id", |delta| text(&delta["id"])),
    ("concepts", |delta| listed(&delta["concepts"], |concept| text(&concept["handle"]))),
    ("size", |delta| size(&delta["size_bytes"])),
    ("made by", |delta| text(&delta["made_by"])),
    ("created", |delta| time(&delta["created_at"])),
];

/// # Errors
/// What the service refuses.
pub(super) async fn run(session: &Session, args: DeltasArgs) -> Result<()> {
    let command = args.command.unwrap_or(Command::Ls { page: Page::default(), concept: None });
    match command {
        Command::Ls { page, concept } => {
            let filters = [("concept", concept.as_deref())];
            list::show(session, DELTAS, &filters, &page, COLUMNS).await
        }
        Command::Show { delta } => show(session, &delta).await,
        Command::Download { delta, out, dense } => {
            let file = out.unwrap_or_else(|| format!("{delta}.safetensors").into());
            let format = if dense { "dense" } else { "native" };
            let path = format!("{DELTAS}/{delta}/content?format={format}");
            place::file(&file)?;
            session.client.download(&path, &file).await?;
            session.out.line(&file.display().to_string())
        }
        Command::Compress(args) => compress(session, &args).await,
        Command::Edit { delta, labels } => {
            let mut body = Map::new();
            labels.add_to(&mut body);
            patch(session, &format!("{DELTAS}/{delta}"), body).await
        }
        Command::Rm { deltas, removal } => {
            remove(session, DELTAS, &deltas, &removal.consent, removal.query()).await
        }
    }
}

async fn compress(session: &Session, args: &Compress) -> Result<()> {
    let mut body = Map::new();
    set(&mut body, "rank", json!(args.rank));
    set(&mut body, "energy", json!(args.energy));
    set(&mut body, "make_current", json!(args.make_current));
    let start = Start {
        path: &format!("{DELTAS}/{}/compress", args.delta),
        body,
        options: &args.job,
        patience: (!args.detach).then_some(&args.patience),
        prints_id: false,
    };
    start.run_to_delta(session).await
}

async fn show(session: &Session, delta: &str) -> Result<()> {
    let answer = session.client.read(&format!("{DELTAS}/{delta}")).await?;
    if session.out.json {
        return session.out.body(&answer);
    }
    let delta = &answer.value;
    session.out.properties(&[
        ("id", text(&delta["id"])),
        ("concepts", listed(&delta["concepts"], |concept| text(&concept["handle"]))),
        ("tokens", listed(&delta["concepts"], |concept| text(&concept["modifier_token"]))),
        ("size", size(&delta["size_bytes"])),
        ("sha256", text(&delta["sha256"])),
        ("made by", text(&delta["made_by"])),
        ("created", time(&delta["created_at"])),
        ("cannot merge", text(&delta["merge_error"])),
        ("external id", text(&delta["external_id"])),
    ])
}
