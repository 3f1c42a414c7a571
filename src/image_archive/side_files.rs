//! Captions from files beside the images: `1.txt` or `1.caption` for `1.png`.

use std::collections::{BTreeMap, HashMap};

use super::unpack::Contents;
use super::{Caption, Findings, path};
use crate::domain::caption;
use crate::domain::image_set::{FileStatus, MAX_CAPTION_BYTES};

/// Adds the captions of side files to those of `metadata.jsonl`, which count more.
pub(super) fn add_captions(
    contents: &Contents,
    captions: &mut HashMap<String, Caption>,
    findings: &mut Findings,
) {
    let mut images_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for image in contents.images.keys().chain(&contents.left_out) {
        images_of.entry(path::stem(image)).or_default().push(image);
    }
    // `.txt` before `.caption`: the first caption of an image stays.
    let (first, later): (Vec<_>, Vec<_>) =
        contents.side_files.iter().partition(|(file, _)| file.to_lowercase().ends_with(".txt"));
    for (file, bytes) in first.into_iter().chain(later) {
        let Some(images) = images_of.get(path::stem(file)) else {
            findings.note(file, FileStatus::Warning, "there is no image of this name");
            continue;
        };
        let text = match caption::text_of(bytes)
            .and_then(|text| caption::tidy(&text, MAX_CAPTION_BYTES))
        {
            Ok(text) => text,
            Err(fault) => {
                findings.refuse_caption(format!("`{file}`, line {}: {}", fault.line, fault.reason));
                continue;
            }
        };
        if let [_, _, ..] = images.as_slice() {
            let detail = format!("it is the caption of {} images of this name", images.len());
            findings.note(file, FileStatus::Warning, detail);
        }
        for image in images {
            add(captions, image, Caption { text: text.clone(), from: file.clone() }, findings);
        }
    }
}

fn add(
    captions: &mut HashMap<String, Caption>,
    image: &str,
    caption: Caption,
    findings: &mut Findings,
) {
    match captions.get(image) {
        None => drop(captions.insert(image.to_owned(), caption)),
        Some(first) if first.text == caption.text => {}
        Some(first) => {
            let detail = format!("another caption of `{image}` is used, from {}", first.from);
            findings.note(&caption.from, FileStatus::Warning, detail);
        }
    }
}
