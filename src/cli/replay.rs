//! `vstar replay`: generates an image again from the manifest that it carries, and says whether it is the same.

use std::path::PathBuf;

use anyhow::{Context, Error, Result, bail, ensure};
use clap::Args;
use image::RgbImage;
use serde_json::json;

use super::exit::Usage;
use super::input;
use super::job::{Patience, follow, id_of};
use super::place;
use super::session::Session;
use crate::image_file;

/// Which image to generate again, where, and what for.
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("purpose").required(true).multiple(true)))]
pub struct ReplayArgs {
    /// A PNG that vstar has generated.
    file: PathBuf,
    /// Succeeds only if every byte is the same again; otherwise says what differs.
    #[arg(long, group = "purpose")]
    verify: bool,
    /// Where to write the new image.
    #[arg(long, short, group = "purpose")]
    out: Option<PathBuf>,
    #[command(flatten)]
    patience: Patience,
}

/// Generates the image again.
///
/// # Errors
/// If the file has no manifest, the service cannot generate it, or `--verify` finds a difference.
pub(super) async fn run(session: &Session, args: ReplayArgs) -> Result<()> {
    let shown = args.file.display();
    let file = input::read(&args.file)?;
    let manifest = image_file::manifest_of(&file)
        .map_err(|error| Usage(format!("{shown}: {:#}", Error::from(error))))?;

    if let Some(out) = &args.out {
        place::file(out)?;
    }
    let started =
        session.client.create("/v1/samples", &json!({ "from_manifest": manifest })).await?;
    let ended = follow(session, &id_of(&started.value)?, &args.patience).await?;
    let image = ended.value["images"][0]["url"].as_str().context("the sample has no image")?;
    let again = session.client.fetch(image).await?;

    if let Some(out) = &args.out {
        std::fs::write(out, &again)
            .with_context(|| format!("{} cannot be written", out.display()))?;
    }
    if args.verify {
        let differences = differences(&file, &again)?;
        if !differences.is_empty() {
            bail!("{shown} is another image now:\n  {}", differences.join("\n  "));
        }
        if !session.out.json {
            session.out.line(&format!("{shown}: the same {} bytes again", file.len()))?;
        }
    }
    if session.out.json { session.out.body(&ended) } else { Ok(()) }
}

/// How two images differ, in sentences; none for the same bytes.
fn differences(file: &[u8], again: &[u8]) -> Result<Vec<String>> {
    if file == again {
        return Ok(Vec::new());
    }
    let (was, is) = (image_file::manifest_of(file)?, image_file::manifest_of(again)?);
    let mut differences: Vec<String> =
        was.differences(&is).iter().map(ToString::to_string).collect();
    if !was.reproducible {
        differences.push(
            "determinism: it was generated as fast, on a device whose rounding depends on the rest of the batch".to_owned(),
        );
    }
    let (was, is) = (pixels(file)?, pixels(again)?);
    ensure!(was.dimensions() == is.dimensions(), "the file's size is not its manifest's");
    let pairs = was.as_raw().iter().zip(is.as_raw());
    let off: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).filter(|&off| off > 0).collect();
    differences.push(match off.iter().max() {
        Some(most) => {
            let (count, all) = (off.len(), was.as_raw().len());
            format!("pixels: {count} of {all} values, by at most {most} of 255")
        }
        None => "the pixels are the same, the file's bytes are not".to_owned(),
    });
    Ok(differences)
}

fn pixels(png: &[u8]) -> Result<RgbImage> {
    Ok(image::load_from_memory(png).context("the PNG cannot be decoded")?.to_rgb8())
}
