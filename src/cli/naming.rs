//! How things are named on a command line: ids and handles, and concepts with a strength.

use anyhow::Result;
use serde_json::{Value, json};

use super::exit::Usage;
use super::number::number;

/// Reads an id or a handle, which stands in a path.
pub(super) fn name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match !text.is_empty() && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is neither an id nor a handle")),
    }
}

/// The path of a job, by the kind that its id begins with.
pub(super) fn job_path(id: &str) -> Result<String> {
    let kind = match id.split_once('_').map(|(prefix, _)| prefix) {
        Some("trn") => "trainings",
        Some("smp") => "samples",
        Some("mrg") => "merges",
        Some("evl") => "evaluations",
        Some("cmp") => "compressions",
        Some(_) | None => {
            return Err(anyhow::Error::new(Usage(format!(
                "`{id}` is not a job: ids of jobs begin with trn_, smp_, mrg_, evl_ or cmp_"
            ))));
        }
    };
    Ok(format!("/v1/{kind}/{id}"))
}

/// Reads `rex`, `rex@0.8` or `dlt_…@0,8`.
pub(super) fn concept_use(text: &str) -> Result<Value, String> {
    let (named, strength) = match text.split_once('@') {
        Some((named, strength)) => (named, Some(number(strength)?)),
        None => (text, None),
    };
    let named = name(named)?;
    let field = if named.starts_with("dlt_") { "delta" } else { "concept" };
    Ok(match strength {
        Some(strength) => json!({ field: named, "strength": strength }),
        None => json!({ field: named }),
    })
}

/// Reads `KEY=VALUE`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("`{text}` is not of the form KEY=VALUE")),
    }
}

/// Reads a JSON object.
pub(super) fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err("a JSON object is expected".to_owned()),
        Err(error) => Err(format!("a JSON object is expected: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concept_may_have_a_strength() {
        assert_eq!(concept_use("rex").unwrap(), json!({ "concept": "rex" }));
        assert_eq!(concept_use("rex@0,8").unwrap(), json!({ "concept": "rex", "strength": 0.8 }));
        assert_eq!(concept_use("dlt_1@1").unwrap(), json!({ "delta": "dlt_1", "strength": 1.0 }));
        for wrong in ["", "@1", "rex@much", "a/b", ".."] {
            assert!(concept_use(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_job_is_known_by_its_id() {
        assert_eq!(job_path("trn_1").unwrap(), "/v1/trainings/trn_1");
        assert!(job_path("rex").is_err() && job_path("cpt_1").is_err());
    }
}
