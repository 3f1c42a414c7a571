//! A folder of captioned class images (the paper's regularization images), in the imagefolder convention.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::domain::concept::ClassNoun;
use crate::engine::custom_diffusion::train::CaptionedImage;

/// The captions of a folder's `metadata.jsonl`; images are read when a training needs them.
#[derive(Clone, Debug, Default)]
pub struct ClassImageFolder {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    path: PathBuf,
    caption: String,
}

/// A line of `metadata.jsonl`.
#[derive(Deserialize)]
struct Line {
    file_name: String,
    text: String,
}

impl ClassImageFolder {
    /// Reads the captions of a folder.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let metadata = std::fs::read_to_string(dir.join("metadata.jsonl"))?;
        let lines = metadata.lines().filter(|line| !line.trim().is_empty());
        let entries = lines.map(|line| {
            let line: Line = serde_json::from_str(line)?;
            Ok(Entry { path: dir.join(line.file_name), caption: line.text })
        });
        Ok(Self { entries: entries.collect::<io::Result<_>>()? })
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All captions.
    pub fn captions(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.caption.clone()).collect()
    }

    /// The images whose caption has the noun as whole words; all where none has: the model does not know the class,
    /// and what must stay as it is then is everything else.
    pub(crate) fn choose(&self, noun: &ClassNoun) -> Self {
        let of_noun = self.entries.iter().filter(|entry| has_words(&entry.caption, noun.as_str()));
        let entries: Vec<Entry> = of_noun.cloned().collect();
        if entries.is_empty() { self.clone() } else { Self { entries } }
    }

    /// Reads and decodes the images.
    pub(crate) fn read(&self) -> io::Result<Vec<CaptionedImage>> {
        let read = |entry: &Entry| {
            let image = image::open(&entry.path).map_err(io::Error::other)?;
            Ok(CaptionedImage { image: image.to_rgb8(), caption: entry.caption.clone() })
        };
        self.entries.iter().map(read).collect()
    }
}

fn has_words(text: &str, wanted: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '\'');
        words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
    };
    let wanted = words(wanted);
    !wanted.is_empty() && words(text).windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(captions: &[&str]) -> ClassImageFolder {
        let entry = |caption: &&str| Entry { path: PathBuf::new(), caption: (*caption).to_owned() };
        ClassImageFolder { entries: captions.iter().map(entry).collect() }
    }

    fn chosen(noun: &str) -> Vec<String> {
        let folder =
            folder(&["a cat, small", "a cathedral", "a teddy bear", "Photo of a CAT", "a bear"]);
        folder.choose(&ClassNoun::try_from(noun.to_owned()).unwrap()).captions()
    }

    #[test]
    fn a_noun_is_found_as_whole_words() {
        assert_eq!(chosen("cat"), ["a cat, small", "Photo of a CAT"]);
        assert_eq!(chosen("teddy bear"), ["a teddy bear"]);
    }

    #[test]
    fn an_unknown_noun_takes_the_whole_folder() {
        assert_eq!(chosen("moongate").len(), 5);
    }
}
