//! `vstar sample`: images from a prompt, saved as files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::body::{chosen, set, some};
use super::exit::Usage;
use super::input;
use super::job::{JobOptions, Patience, Start, id_of};
use super::naming::concept_use;
use super::number::{number, seed};
use super::place::Place;
use super::session::Session;
use crate::client::Answer;
use crate::image_file;

/// What to generate, and where to save it.
#[derive(Clone, Debug, Args)]
pub struct SampleArgs {
    /// What to generate. A modifier token brings in its concept: `photo of a <rex> dog on the beach`.
    #[arg(required_unless_present = "from")]
    prompt: Option<String>,
    /// The number of images.
    #[arg(short = 'n', long = "images", value_name = "NUMBER")]
    n: Option<u64>,
    /// Folder for the images, each named after its id; made if it is not there. Or a file: `rex.png`; several become `rex-0.png` and so
    /// on.
    #[arg(short, long, value_name = "FOLDER|FILE.png", default_value = ".")]
    out: PathBuf,
    /// Random seed, a whole number. The service chooses one if it is left out.
    #[arg(long, value_parser = seed, allow_hyphen_values = true)]
    seed: Option<u64>,
    /// The number of denoising steps.
    #[arg(long)]
    steps: Option<u64>,
    /// Weight of the prompt.
    #[arg(long, value_name = "SCALE", value_parser = number)]
    guidance: Option<f64>,
    /// What the images should not show.
    #[arg(long, value_name = "PROMPT")]
    negative: Option<String>,
    /// Concept or delta that the prompt does not name, or one with a strength: `rex@0.8`. Can be repeated.
    #[arg(long = "concept", value_name = "CONCEPT", value_parser = concept_use)]
    concepts: Vec<Value>,
    /// How several concepts come into one picture.
    #[arg(long, value_enum)]
    compose: Option<Compose>,
    /// Width in pixels.
    #[arg(long)]
    width: Option<u64>,
    /// Height in pixels.
    #[arg(long)]
    height: Option<u64>,
    /// The scheduler, such as ddim.
    #[arg(long)]
    scheduler: Option<String>,
    /// Image to start from: a file, or the id of an image that the service has.
    #[arg(long, value_name = "FILE|ID")]
    init: Option<String>,
    /// How much of the start image is redrawn, above 0 and up to 1.
    #[arg(long, value_name = "STRENGTH", value_parser = number, requires = "init")]
    noise_strength: Option<f64>,
    /// A PNG that vstar has generated, or its manifest as JSON: the same image again.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "seed", "concepts", "init"])]
    from: Option<PathBuf>,
    /// Returns when the sample is queued. `vstar watch ID -o FOLDER` saves its images.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    job: JobOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compose {
    /// Each in its own region.
    Regional,
    /// As one merged delta.
    Merge,
    /// Each through its own tokens.
    Tokens,
}

/// # Errors
/// If a file cannot be read or written, and as for [`Start::run`].
pub(super) async fn run(session: &Session, args: SampleArgs) -> Result<()> {
    let saves = !args.detach && !args.job.dry_run;
    // Said before anything is generated.
    let place = saves.then(|| Place::at(&args.out)).transpose()?;
    let start = Start {
        path: "/v1/samples",
        body: args.body(session).await?,
        options: &args.job,
        patience: (!args.detach).then_some(&args.patience),
        prints_id: false,
    };
    let (Some(ended), Some(place)) = (start.run(session).await?, place) else { return Ok(()) };
    save(session, &ended, &place).await
}

/// Saves the images of a sample, and shows where.
///
/// # Errors
/// If a file cannot be written, or an image is gone.
pub(super) async fn save(session: &Session, sample: &Answer, place: &Place) -> Result<()> {
    let images = sample.value["images"].as_array().context("the sample has no images")?;
    let mut saved = Vec::new();
    for (index, image) in images.iter().enumerate() {
        let image_id = id_of(image)?;
        let file = place.file(&image_id, index, images.len());
        let url = image["url"].as_str().context("the image has no URL")?;
        session.client.download(url, &file).await?;
        saved.push((image_id, file));
    }
    if session.out.json {
        return session.out.body(sample);
    }
    for (image_id, file) in &saved {
        match session.out.is_terminal {
            true => session.out.line(&file.display().to_string())?,
            false => session.out.line(image_id)?,
        }
    }
    session.out.note(&format!("{}, seed {}", id_of(&sample.value)?, sample.value["seed"]));
    Ok(())
}

impl SampleArgs {
    async fn body(&self, session: &Session) -> Result<Map<String, Value>> {
        let mut body = Map::new();
        if let Some(file) = &self.from {
            set(&mut body, "from_manifest", manifest(file)?);
        }
        set(&mut body, "prompt", json!(self.prompt));
        set(&mut body, "n", json!(self.n));
        set(&mut body, "seed", json!(self.seed));
        set(&mut body, "num_inference_steps", json!(self.steps));
        set(&mut body, "guidance_scale", json!(self.guidance));
        set(&mut body, "negative_prompt", json!(self.negative));
        set(&mut body, "width", json!(self.width));
        set(&mut body, "height", json!(self.height));
        set(&mut body, "scheduler", json!(self.scheduler));
        set(&mut body, "noise_strength", json!(self.noise_strength));
        set(&mut body, "concepts", some(&self.concepts));
        if self.compose.is_some() {
            set(&mut body, "composition", json!({ "method": chosen(self.compose) }));
        }
        if let Some(init) = &self.init {
            set(&mut body, "init_image", json!(init_image(session, init).await?));
        }
        Ok(body)
    }
}

/// The id of the image to start from; a file is uploaded.
async fn init_image(session: &Session, given: &str) -> Result<String> {
    let file = Path::new(given);
    if given.starts_with("img_") && !file.exists() {
        return Ok(given.to_owned());
    }
    input::check_readable(file)?;
    let uploaded = session.client.upload_as("/v1/images", "file", &[file.to_owned()]).await?;
    id_of(&uploaded.value)
}

/// The manifest in a PNG, or in a file of its own.
fn manifest(file: &Path) -> Result<Value> {
    let shown = file.display();
    let bytes = input::read(file)?;
    if let Ok(manifest) = serde_json::from_slice(&bytes) {
        return Ok(manifest);
    }
    let manifest = image_file::manifest_of(&bytes)
        .map_err(|error| Usage(format!("--from {shown}: {:#}", Error::from(error))))?;
    Ok(serde_json::to_value(manifest)?)
}
