//! Captions from `metadata.jsonl`: one JSON object a line, whose `file_name` counts from the file's own folder.

use std::collections::HashMap;

use serde_json::Value;

use super::path::{self, FileKind};
use super::unpack::Contents;
use super::{Caption, Findings};
use crate::domain::caption;
use crate::domain::image_set::{FileStatus, MAX_CAPTION_BYTES};

/// The fields that can have the caption; the first that is there does.
const CAPTION_FIELDS: [&str; 3] = ["text", "caption", "prompt"];

/// Reads every `metadata.jsonl` of the archive.
///
/// - returns captions by the paths of their images
pub(super) fn captions(contents: &Contents, findings: &mut Findings) -> HashMap<String, Caption> {
    let mut captions = HashMap::new();
    for (file, bytes) in &contents.metadata {
        let text = match caption::text_of(bytes) {
            Ok(text) => text,
            Err(fault) => {
                findings.refuse_caption(at(file, fault.line, &fault.reason));
                continue;
            }
        };
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match read_line(contents, file, line) {
                Ok((image, text)) => {
                    let from = format!("{file}, line {}", index + 1);
                    let caption = Caption { text, from };
                    add(&mut captions, image, caption, findings);
                }
                Err(reason) => findings.refuse_caption(at(file, index + 1, &reason)),
            }
        }
    }
    captions
}

fn at(file: &str, line: usize, reason: &str) -> String {
    format!("`{file}`, line {line}: {reason}")
}

/// The path of a line's image, and its caption.
fn read_line(contents: &Contents, file: &str, line: &str) -> Result<(String, String), String> {
    let line: Value = serde_json::from_str(line)
        .map_err(|error| format!("this is not a JSON object: {error}"))?;
    let Value::Object(fields) = line else {
        return Err("this is not a JSON object with `file_name` and `text`".to_owned());
    };
    let name = match fields.get("file_name") {
        Some(Value::String(name)) => name,
        Some(_) => return Err("`file_name` is not a text".to_owned()),
        None => return Err("`file_name` is missing: it names the image".to_owned()),
    };
    let says_something = |value: &&Value| !value.is_null() && value.as_str() != Some("");
    let mut captions = CAPTION_FIELDS.iter().filter_map(|field| fields.get(*field));
    let text = match captions.find(says_something) {
        Some(Value::String(text)) => text.as_str(),
        Some(Value::Null) | None => "",
        Some(_) => return Err(format!("the caption of `{name}` is not a text")),
    };
    let text = caption::tidy(text, MAX_CAPTION_BYTES).map_err(|fault| fault.reason)?;
    Ok((image_named(contents, file, name)?, text))
}

/// The image that a `metadata.jsonl` means, or what would have to be written.
fn image_named(contents: &Contents, file: &str, name: &str) -> Result<String, String> {
    let (folder, _) = path::split(file);
    let clean = path::clean(name).map_err(|reason| {
        format!("`{name}` is not taken, since {reason}: write names from this file's own folder")
    })?;
    let wanted = path::join(folder, &clean);
    let exists =
        |path: &str| contents.images.contains_key(path) || contents.left_out.contains(path);
    if exists(&wanted) {
        return Ok(wanted);
    }
    if path::kind(&clean) == FileKind::Other {
        return Err(format!("`{name}` is not a PNG, JPEG or WebP image"));
    }
    let hint = match nearest(contents, folder, &clean) {
        Some(found) => match found.strip_prefix(folder).map(|rest| rest.trim_start_matches('/')) {
            Some(rest) if folder.is_empty() || found.starts_with(&format!("{folder}/")) => {
                format!("names count from this file's own folder, so write `{rest}`")
            }
            Some(_) | None => {
                format!(
                    "the archive has `{found}`, outside of this file's folder: move the file up"
                )
            }
        },
        None => "nor anything like it: pack the image, or remove the line".to_owned(),
    };
    Err(format!("the archive has no image `{wanted}`; {hint}"))
}

/// An image that a wrong name probably means.
fn nearest<'a>(contents: &'a Contents, folder: &str, name: &str) -> Option<&'a str> {
    let paths = || contents.images.keys().map(String::as_str);
    let mut rest = name;
    // `train/1.png` in `train/metadata.jsonl`.
    while let Some((_, shorter)) = rest.split_once('/') {
        rest = shorter;
        let candidate = path::join(folder, rest);
        if let Some(found) = paths().find(|path| *path == candidate) {
            return Some(found);
        }
    }
    let wanted = path::join(folder, name).to_lowercase();
    let same_name = |path: &&str| path::split(path).1 == path::split(name).1;
    paths()
        .find(|path| path.to_lowercase() == wanted)
        .or_else(|| paths().find(|path| *path == name))
        .or_else(|| paths().find(same_name))
}

/// Adds a caption; a second one of an image is a warning if it is the same, else an error.
fn add(
    captions: &mut HashMap<String, Caption>,
    image: String,
    caption: Caption,
    findings: &mut Findings,
) {
    match captions.get(&image) {
        None => drop(captions.insert(image, caption)),
        Some(first) if first.text == caption.text => {
            let detail = format!("it is named twice, in {} and in {}", first.from, caption.from);
            findings.note(&image, FileStatus::Warning, detail);
        }
        Some(first) => findings.refuse_caption(format!(
            "`{image}` has two captions, in {} and in {}: keep one",
            first.from, caption.from
        )),
    }
}
