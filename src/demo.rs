//! `vstar demo`: the whole main job, from photos to images of two concepts together, as an HTTP client of a service of its own.
//!
//! Teaches concepts, those of a known class with a modifier token and those of an unknown class without, generates images of
//! them before and after, then images of pairs of them together, composed by regions and merged. It leaves images, deltas, a
//! contact sheet and a report, and fails if a concept has not been learned.

mod alignment;
mod lesson;
mod merging;
mod photos;
mod progress;
mod report;
mod sheet;
mod story;
mod teller;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Map, Value};

use self::alignment::Judge;
use crate::config::{
    AccessSettings, DEFAULT_IDLE_TIMEOUT, DEFAULT_MAX_CONNECTIONS, EndingSettings, ServeSettings,
    Settings, WorkerSettings,
};
use crate::domain::job::DEFAULT_QUEUE_LIMIT;
use crate::evaluator::Evaluator;
use crate::serve::{Service, Signals};

pub(crate) use lesson::{create_concept, modifier_token};
pub use merging::{MergingSheetArgs, run as draw_merging_sheet};
pub(crate) use photos::{ConceptPhotos, read as read_concepts};
pub(crate) use progress::Progress;
pub(crate) use teller::{slug, text};

/// What the demo takes and where it leaves its results.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Folder for the results; made if it is not there.
    #[arg(long, default_value = "demo-out")]
    out: PathBuf,
    /// Folder with concepts.json and a folder of photos per concept; the repository's own if left out.
    #[arg(long)]
    concepts: Option<PathBuf>,
    /// Concept to teach; may be repeated. Each of the first half is also shown together with one of the second.
    #[arg(long = "concept", value_name = "NAME", default_values = ["dog", "vase", "gate", "robot"])]
    names: Vec<String>,
    /// Random seed of the trainings.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fields of the recipe that differ from the base model's own, such as `{"max_train_steps": 5}`. With another recipe, the
    /// demo does not fail where nothing was learned.
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    recipe: Option<Map<String, Value>>,
    /// Leaves the service running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Folder with the binaries of Postgres. Searched for in the usual places if this is not set.
    #[arg(long, env = "VSTAR_PG_BIN")]
    pg_bin: Option<PathBuf>,
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("a JSON object is expected: {error}"))
}

/// Runs the demo.
///
/// # Errors
/// A sentence about what is wrong with the folder, or what the service answered.
pub async fn run(args: &DemoArgs) -> Result<()> {
    let concepts = photos::read(args.concepts.as_deref(), &args.names)?;
    prepare_out(&args.out, &concepts)?;

    let private = tempfile::Builder::new().prefix("vstar-demo-").tempdir()?;
    let settings = private_settings(private.path(), args.pg_bin.as_deref());
    let judge = match settings.common.evaluator_dir().map_err(anyhow::Error::msg)? {
        Some(dir) => Some(Judge::new(Evaluator::load(&dir, &settings.common.device)?)),
        None => None,
    };
    let service = Service::start(&settings).await?;
    let address = format!("http://{}", service.address);
    let progress = Progress::new(std::io::stdout().is_terminal());
    progress.say(&format!("vstar answers at {address}"));

    let told = story::tell(&address, args, &concepts, judge.as_ref(), &progress).await;
    if told.is_ok() && args.keep {
        progress.say(&format!("the service goes on at {address} until Ctrl-C"));
        Signals::listen()?.next().await;
    }
    service.stop().await;
    told
}

/// A service of one's own, on loopback and with a private database.
pub(crate) fn private_settings(data_dir: &Path, pg_bin: Option<&Path>) -> ServeSettings {
    ServeSettings {
        common: Settings {
            data_dir: data_dir.to_owned(),
            database_url: None,
            pg_bin: pg_bin.map(Path::to_owned),
            object_store: None,
            base_model: None,
            evaluator: None,
            device: "cpu".to_owned(),
            precision: None,
            threads: None,
            worker: WorkerSettings::default(),
            metrics_listen: None,
            ending: EndingSettings::default(),
        },
        max_connections: DEFAULT_MAX_CONNECTIONS,
        idle_timeout: DEFAULT_IDLE_TIMEOUT,
        queue_limit: DEFAULT_QUEUE_LIMIT,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ready_queue_depth: None,
        public_url: None,
        allow_private_webhooks: false,
        access: AccessSettings::default(),
        no_worker: false,
    }
}

/// Makes the folder and takes away what an earlier run left under the names that this one writes.
fn prepare_out(out: &Path, concepts: &[ConceptPhotos]) -> Result<()> {
    if out.exists() {
        ensure!(out.is_dir(), "--out {}: this is not a folder", out.display());
        let used = std::fs::read_dir(out)?.next().is_some();
        ensure!(
            !used || out.join("report.json").is_file(),
            "--out {}: the folder holds other things; choose an empty one",
            out.display()
        );
    }
    std::fs::create_dir_all(out).with_context(|| format!("{} cannot be made", out.display()))?;
    // From now on the folder is known as ours, also if this run breaks off.
    std::fs::write(out.join("report.json"), "{}")
        .with_context(|| format!("{} cannot be written", out.display()))?;
    let names = concepts.iter().map(|concept| concept.name.as_str());
    for name in names.chain(["merged"]) {
        let dir = out.join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)
                .with_context(|| format!("{} cannot be removed", dir.display()))?;
        }
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("{} cannot be made", dir.display()))?;
    }
    Ok(())
}
