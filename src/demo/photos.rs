//! The folder that concepts are taught from: `concepts.json` and a folder of photos for each.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::config::bundled;

/// Fewest photos that a concept is taught from.
const MIN_PHOTOS: usize = 4;

/// A concept of the folder.
#[derive(Clone, Debug)]
pub(crate) struct ConceptPhotos {
    pub(crate) name: String,
    pub(crate) class_noun: String,
    /// Whether the base model knows the class: then the concept is taught with a modifier token.
    pub(crate) is_known: bool,
    /// In the order of their names.
    pub(crate) photos: Vec<PathBuf>,
}

/// An entry of `concepts.json`.
#[derive(Deserialize)]
struct ConceptEntry {
    class_noun: String,
    known_to_the_base_model: bool,
}

/// Reads the concepts of these names.
///
/// - `dir`: the repository's own folder if `None`
///
/// # Errors
/// A sentence about what is wrong with the folder, or a name that is given twice.
pub(crate) fn read(dir: Option<&Path>, names: &[String]) -> Result<Vec<ConceptPhotos>> {
    let dir = match dir {
        Some(dir) => dir.to_owned(),
        None => bundled("demo/concepts")
            .context("the repository's photos are not here: give --concepts DIR")?,
    };
    let mut concepts: Vec<ConceptPhotos> = Vec::new();
    for name in names {
        let is_new = concepts.iter().all(|concept| concept.name != *name);
        ensure!(is_new, "--concept {name} is given twice");
        concepts.push(read_concept(&dir, name)?);
    }
    Ok(concepts)
}

fn read_concept(dir: &Path, name: &str) -> Result<ConceptPhotos> {
    let index = dir.join("concepts.json");
    let text = std::fs::read_to_string(&index)
        .with_context(|| format!("{} cannot be read", index.display()))?;
    let mut entries: std::collections::BTreeMap<String, ConceptEntry> = serde_json::from_str(&text)
        .with_context(|| format!("{} is not as expected", index.display()))?;
    let names = entries.keys().cloned().collect::<Vec<_>>().join(", ");
    let Some(entry) = entries.remove(name) else {
        bail!("{} has no concept `{name}`; it has {names}", index.display());
    };
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
    Ok(ConceptPhotos {
        name: name.to_owned(),
        class_noun: entry.class_noun,
        is_known: entry.known_to_the_base_model,
        photos,
    })
}
