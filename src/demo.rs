//! `vstar demo`: the whole main job, from photos to images of two concepts together, as an HTTP client of a service of its own.
//!
//! Teaches two concepts, one of a known class with a modifier token and one of an unknown class without, samples them
//! before and after, merges them and samples the composition; leaves images, deltas, a contact sheet and a report.

mod merging;
mod progress;
mod report;
mod sheet;
mod story;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use crate::config::{ServeSettings, Settings, WorkerSettings, bundled};
use crate::domain::job::DEFAULT_QUEUE_LIMIT;
use crate::serve::{Service, asked_to_end};

pub use merging::{MergingSheetArgs, run as draw_merging_sheet};

/// Fewest photos that a concept is taught from.
const MIN_PHOTOS: usize = 4;

/// What the demo takes and where it leaves its results.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Folder for the results; made if it is not there.
    #[arg(long, default_value = "demo-out")]
    out: PathBuf,
    /// Folder with concepts.json and a folder of photos per concept; the repository's own if left out.
    #[arg(long)]
    concepts: Option<PathBuf>,
    /// Concept of a class that the base model knows, taught with a modifier token.
    #[arg(long, default_value = "dog")]
    known: String,
    /// Concept of a class that it does not know, taught without one.
    #[arg(long, default_value = "gate")]
    unknown: String,
    /// Steps of each training, for a quick look; the base model's own number if left out.
    #[arg(long)]
    max_train_steps: Option<usize>,
    /// Leaves the service running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Folder with the binaries of Postgres. Searched for in the usual places if this is not set.
    #[arg(long, env = "VSTAR_PG_BIN")]
    pg_bin: Option<PathBuf>,
}

/// A concept of the folder.
#[derive(Clone, Debug)]
struct ConceptPhotos {
    name: String,
    class_noun: String,
    /// In the order of their names.
    photos: Vec<PathBuf>,
}

/// An entry of `concepts.json`.
#[derive(Deserialize)]
struct ConceptEntry {
    class_noun: String,
    known_to_the_base_model: bool,
}

/// Runs the demo.
///
/// # Errors
/// A sentence about what is wrong with the folder, or what the service answered.
pub async fn run(args: &DemoArgs) -> Result<()> {
    let dir = match &args.concepts {
        Some(dir) => dir.clone(),
        None => bundled("demo/concepts")
            .context("the repository's photos are not here: give --concepts DIR")?,
    };
    ensure!(args.known != args.unknown, "--known and --unknown are the same concept");
    let known = read_concept(&dir, &args.known, true)?;
    let unknown = read_concept(&dir, &args.unknown, false)?;
    prepare_out(&args.out, &[&known.name, &unknown.name])?;

    let private = tempfile::Builder::new().prefix("vstar-demo-").tempdir()?;
    let settings = ServeSettings {
        common: Settings {
            data_dir: private.path().to_owned(),
            database_url: None,
            pg_bin: args.pg_bin.clone(),
            object_store: None,
            base_model: None,
            evaluator: None,
            device: "cpu".to_owned(),
            threads: None,
            worker: WorkerSettings::default(),
        },
        queue_limit: DEFAULT_QUEUE_LIMIT,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        no_worker: false,
    };
    let service = Service::start(&settings).await?;
    let address = format!("http://{}", service.address);
    let progress = progress::Progress::new(std::io::stdout().is_terminal());
    progress.say(&format!("vstar answers at {address}"));

    let told =
        story::tell(&address, &args.out, &known, &unknown, args.max_train_steps, &progress).await;
    if told.is_ok() && args.keep {
        progress.say(&format!("the service goes on at {address} until Ctrl-C"));
        asked_to_end().await;
    }
    service.stop().await;
    told
}

fn read_concept(dir: &Path, name: &str, known: bool) -> Result<ConceptPhotos> {
    let index = dir.join("concepts.json");
    let text = std::fs::read_to_string(&index)
        .with_context(|| format!("{} cannot be read", index.display()))?;
    let mut entries: std::collections::BTreeMap<String, ConceptEntry> = serde_json::from_str(&text)
        .with_context(|| format!("{} is not as expected", index.display()))?;
    let names = entries.keys().cloned().collect::<Vec<_>>().join(", ");
    let Some(entry) = entries.remove(name) else {
        bail!("{} has no concept `{name}`; it has {names}", index.display());
    };
    if entry.known_to_the_base_model != known {
        let (option, is) = if known { ("--known", "unknown") } else { ("--unknown", "known") };
        bail!("{option} {name}: its class `{}` is {is} to the base model", entry.class_noun);
    }
    let folder = dir.join(name);
    let mut photos = Vec::new();
    for file in std::fs::read_dir(&folder)
        .with_context(|| format!("{} cannot be read", folder.display()))?
    {
        let path = file?.path();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if ["jpg", "jpeg", "png", "webp"].iter().any(|known| extension == *known) {
            photos.push(path);
        }
    }
    photos.sort();
    ensure!(
        photos.len() >= MIN_PHOTOS,
        "{} has {} photos, a concept needs at least {MIN_PHOTOS}",
        folder.display(),
        photos.len()
    );
    Ok(ConceptPhotos { name: name.to_owned(), class_noun: entry.class_noun, photos })
}

/// Makes the folder and takes away what an earlier run left under the names that this one writes.
fn prepare_out(out: &Path, names: &[&str]) -> Result<()> {
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
    for name in names.iter().chain(&["merged"]) {
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
