//! The base model's own things, as if they were concepts: what it can compose at all.
//!
//! A plain thing has no photos of its own, so images of it alone stand for them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use super::workshop::Workshop;
use crate::demo::{ConceptPhotos, text};

/// Where a plain thing is shown for its photos.
const SCENES: [&str; 6] =
    ["on the grass", "on the beach", "in the snow", "at night", "in the forest", "on the street"];
/// Another seed than that of any image that is compared.
const SEED: u64 = 4_000;

impl Workshop<'_> {
    /// The id of the plain thing of this concept's class.
    pub(super) async fn plain_thing(&self, concept: &ConceptPhotos) -> Result<String> {
        let noun = &concept.class_noun;
        let dir = self.args.out.join("plain").join(&concept.name);
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("{} cannot be made", dir.display()))?;
        let mut photos: Vec<PathBuf> = Vec::new();
        for (index, scene) in SCENES.iter().enumerate() {
            let file = dir.join(format!("{}.png", index + 1));
            if !file.is_file() {
                let body = json!({ "prompt": format!("photo of a {noun} {scene}"), "seed": SEED });
                let sample = text(&self.client.post("/v1/samples", &body).await?, "id")?;
                let done = self.client.finish(&format!("/v1/samples/{sample}"), |_| {}).await?;
                let image = text(&done["images"][0], "url")?;
                self.client.download(&image, &file).await?;
            }
            photos.push(file);
        }
        let thing = ConceptPhotos {
            name: format!("plain-{}", concept.name),
            class_noun: noun.clone(),
            is_known: true,
            photos,
        };
        self.concept_with(&thing, None).await
    }
}
