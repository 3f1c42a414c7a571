//! What every part of the demo needs: the service, the folder for the results, and images of prompts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::alignment::Judge;
use super::progress::Progress;
use super::report::ImageReport;
use super::sheet::ImagesByPrompt;
use crate::client::Client;

/// An image of every prompt is generated with each of these.
const SEEDS: [u64; 2] = [1, 2];

/// Leads through the demo.
pub(super) struct Teller<'a> {
    pub(super) client: &'a Client,
    pub(super) out: &'a Path,
    /// Of the trainings.
    pub(super) seed: u64,
    /// Fields that differ from the base model's own recipe.
    pub(super) recipe: Option<&'a Map<String, Value>>,
    pub(super) judge: Option<&'a Judge>,
    pub(super) progress: &'a Progress,
}

impl Teller<'_> {
    /// Generates an image of every prompt with every seed into `folder`.
    pub(super) async fn sample(
        &self,
        title: &str,
        folder: &str,
        prompts: &[String],
        concepts: &[Value],
    ) -> Result<Vec<ImageReport>> {
        let start = Instant::now();
        std::fs::create_dir_all(self.out.join(folder))?;
        let mut queued = Vec::new();
        for (index, prompt) in prompts.iter().enumerate() {
            for seed in SEEDS {
                let body = json!({ "prompt": prompt, "seed": seed, "n": 1, "concepts": concepts });
                let sample = self.client.post("/v1/samples", &body).await?;
                queued.push((index, prompt, seed, text(&sample, "id")?));
            }
        }
        let mut work = self.progress.begin(title);
        let total = queued.len() as u64;
        let mut images = Vec::new();
        for (index, prompt, seed, sample_id) in queued {
            let sample = self.client.finish(&format!("/v1/samples/{sample_id}"), |_| {}).await?;
            let image = &sample["images"][0];
            let path = format!("{folder}/{}-seed{seed}.png", index + 1);
            let content = text(image, "url")?;
            let bytes = self.client.download(&content, &self.out.join(&path)).await?;
            images.push(ImageReport {
                path,
                prompt: prompt.clone(),
                seed,
                width: image["width"].clone(),
                height: image["height"].clone(),
                bytes,
            });
            work.at(images.len() as u64, total, "");
        }
        work.done(&format!("{total} images in {:.0} s", start.elapsed().as_secs_f64()));
        Ok(images)
    }
}

/// Files by prompt, in order.
pub(super) fn images_by_prompt(out: &Path, images: &[ImageReport]) -> ImagesByPrompt {
    let mut by_prompt: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for image in images {
        let path = out.join(&image.path);
        match by_prompt.last_mut() {
            Some((prompt, paths)) if *prompt == image.prompt => paths.push(path),
            Some(_) | None => by_prompt.push((image.prompt.clone(), vec![path])),
        }
    }
    by_prompt
}

/// A name as handles and tokens take it.
pub(crate) fn slug(name: &str) -> String {
    name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

pub(crate) fn text(value: &Value, field: &str) -> Result<String> {
    value[field]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("the answer has no `{field}`: {value}"))
}
