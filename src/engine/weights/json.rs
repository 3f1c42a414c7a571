//! The JSON files of a model folder.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::domain::git_lfs;
use crate::engine::error::{EngineError, Result};

/// Reads a JSON file of the model folder.
///
/// Python writes `NaN` and `Infinity`, which JSON does not have. They are errors only where a field that is read here has
/// one.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|error| failed(path, &error))?;
    if git_lfs::is_pointer(&bytes) {
        return Err(failed(path, &git_lfs::REMEDY));
    }
    let text = String::from_utf8(bytes).map_err(|error| failed(path, &error))?;
    let text = text.trim_start_matches('\u{feff}');
    match parse(text) {
        Ok(value) => Ok(value),
        Err(error) => {
            let quoted = quote_non_finite(text).ok_or_else(|| failed(path, &error))?;
            parse(&quoted).map_err(|error| failed(path, &error))
        }
    }
}

/// Takes the fields of a JSON file that has been read.
pub(crate) fn from_json<T: for<'de> Deserialize<'de>>(path: &Path, json: Value) -> Result<T> {
    serde_path_to_error::deserialize(json).map_err(|error| failed(path, &error))
}

/// A side of something square: a number, or a list of two equal ones, as diffusers has it in several places.
pub(crate) fn square<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<usize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number, or a list of height and width")]
    enum Sides {
        One(usize),
        Both([usize; 2]),
    }
    match Option::<Sides>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Sides::One(side)) => Ok(Some(side)),
        Some(Sides::Both([height, width])) if height == width => Ok(Some(height)),
        Some(Sides::Both([height, width])) => Err(serde::de::Error::custom(format!(
            "it is {height} x {width}, and only squares are supported"
        ))),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(
    text: &str,
) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text))
}

/// Puts quotes around numbers that are not finite; `None` if there are none.
fn quote_non_finite(text: &str) -> Option<String> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let mut quoted = String::with_capacity(text.len() + 16);
    let (mut rest, mut in_text, mut found) = (text, false, false);
    while let Some(next) = rest.chars().next() {
        let word = WORDS.into_iter().find(|word| !in_text && rest.starts_with(word));
        let taken = match (word, next) {
            (Some(word), _) => {
                found = true;
                quoted.extend(["\"", word, "\""]);
                rest = &rest[word.len()..];
                continue;
            }
            (None, '\\') => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, other) => other.len_utf8(),
        };
        in_text ^= next == '"';
        quoted.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    found.then_some(quoted)
}

fn failed(path: &Path, reason: &dyn std::fmt::Display) -> EngineError {
    EngineError::ModelFile { path: path.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Config {
        steps: f64,
    }

    fn read(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        read_json(&path)
    }

    #[test]
    fn numbers_that_python_writes_do_not_matter_in_fields_that_are_not_read() {
        for other in ["-Infinity", "NaN", "[Infinity, 1]", r#"" \" NaN""#] {
            let text = format!("{{\"other\": {other}, \"steps\": 7, \"last\": -Infinity}}");
            assert_eq!(read(&text).unwrap().steps as usize, 7, "{other}");
        }
    }

    #[test]
    fn a_field_that_is_read_must_have_its_number() {
        let error = read(r#"{"steps": NaN}"#).unwrap_err().to_string();

        assert!(error.contains("steps") && error.contains("NaN"), "{error}");
        assert!(read(r#"{"steps": 7"#).is_err());
        assert!(read("\u{feff}{\"steps\": 7}").is_ok());
    }

    #[test]
    fn a_git_lfs_pointer_is_called_one() {
        let error = read("version https://git-lfs.github.com/spec/v1\noid sha256:0").unwrap_err();

        assert!(error.to_string().contains("git lfs pull"), "{error}");
    }
}
