//! Real images of a class, to measure distances from: those of the base model's class images that show it.

use std::io::{Cursor, Write};

use anyhow::{Context, Result};
use image::ImageFormat;
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::ledger::Entry;
use super::workshop::Workshop;
use crate::class_images::ClassImageSet;
use crate::demo::text;
use crate::domain::concept::ClassNoun;

/// Fewest images that a distance is measured from.
const MIN_IMAGES: usize = 16;

impl Workshop<'_> {
    /// The id of a set with the base model's class images of a noun; `None` if there are too few.
    pub(super) async fn class_images(&self, noun: &str) -> Result<Option<String>> {
        let key = format!("class-images/{noun}");
        if let Some(entry) = self.ledger.find(&key, &Value::Null) {
            return Ok(Some(entry.path));
        }
        let Some(set) = class_images_of(&self.model.class_images, noun)? else { return Ok(None) };
        let file = self.args.out.join(format!("class-images-{noun}.zip"));
        std::fs::write(&file, set)
            .with_context(|| format!("{} cannot be written", file.display()))?;
        let made = self.client.upload_archive("/v1/image-sets", &file).await?;
        let path = text(&made, "id")?;
        let entry = Entry { request: Value::Null, path: path.clone(), result: None };
        self.ledger.write(&key, &entry)?;
        Ok(Some(path))
    }
}

/// The class images of this noun alone as an archive that the service takes.
fn class_images_of(set: &ClassImageSet, noun: &str) -> Result<Option<Vec<u8>>> {
    let chosen = set.choose(&ClassNoun::try_from(noun.to_owned())?);
    let count = chosen.captions().len();
    if count < MIN_IMAGES || count == set.captions().len() {
        return Ok(None);
    }
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::DEFAULT;
    let mut captions = String::new();
    for (index, (image, caption)) in chosen.read()?.into_iter().enumerate() {
        let name = format!("{index:04}.png");
        captions += &format!("{}\n", json!({ "file_name": name, "text": caption }));
        let mut png = Cursor::new(Vec::new());
        image.write_to(&mut png, ImageFormat::Png)?;
        archive.start_file(name, options)?;
        archive.write_all(png.get_ref())?;
    }
    archive.start_file("metadata.jsonl", options)?;
    archive.write_all(captions.as_bytes())?;
    Ok(Some(archive.finish()?.into_inner()))
}
