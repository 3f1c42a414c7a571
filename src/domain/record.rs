//! What every object of the catalog has beside its own fields: a revision, and what the client has attached to it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::code::Code;
use super::invalid::FieldError;

/// The most entries of an object's metadata.
pub const MAX_METADATA: usize = 16;

/// The most characters of a key of the metadata.
pub const MAX_METADATA_KEY: usize = 64;

/// The most characters of a value of the metadata.
pub const MAX_METADATA_VALUE: usize = 512;

/// The most characters of an external id.
pub const MAX_EXTERNAL_ID: usize = 255;

/// Texts that a client has attached to an object. They are returned as they are, and never interpreted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "BTreeMap<String, String>")]
#[schema(value_type = std::collections::HashMap<String, String>, examples(json!({"order": "2026-117"})))]
pub struct Metadata(BTreeMap<String, String>);

/// Texts that cannot be metadata.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMetadata {
    #[error("metadata has at most {MAX_METADATA} entries, not {0}: remove some")]
    TooMany(usize),
    #[error("a key of the metadata has 1 to {MAX_METADATA_KEY} characters: choose a shorter one")]
    Key,
    #[error("a value of the metadata has at most {MAX_METADATA_VALUE} characters: shorten it")]
    Value,
}

impl TryFrom<BTreeMap<String, String>> for Metadata {
    type Error = InvalidMetadata;

    fn try_from(entries: BTreeMap<String, String>) -> Result<Self, InvalidMetadata> {
        if entries.len() > MAX_METADATA {
            return Err(InvalidMetadata::TooMany(entries.len()));
        }
        for (key, value) in &entries {
            if !(1..=MAX_METADATA_KEY).contains(&key.chars().count()) {
                return Err(InvalidMetadata::Key);
            }
            if value.chars().count() > MAX_METADATA_VALUE {
                return Err(InvalidMetadata::Value);
            }
        }
        Ok(Self(entries))
    }
}

/// The client's own name for an object, such as the number of an order. Unique among the objects of a kind in a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[sqlx(transparent)]
#[schema(value_type = String, min_length = 1, max_length = 255, examples("order-123"))]
pub struct ExternalId(String);

/// A text that cannot be an external id.
#[derive(Debug, thiserror::Error)]
#[error(
    "an external id has 1 to {MAX_EXTERNAL_ID} characters, and no control characters: choose another"
)]
pub struct InvalidExternalId;

impl ExternalId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ExternalId {
    type Error = InvalidExternalId;

    fn try_from(text: String) -> Result<Self, InvalidExternalId> {
        let fits = (1..=MAX_EXTERNAL_ID).contains(&text.chars().count());
        if fits && !text.chars().any(char::is_control) {
            Ok(Self(text))
        } else {
            Err(InvalidExternalId)
        }
    }
}

impl From<ExternalId> for String {
    fn from(id: ExternalId) -> Self {
        id.0
    }
}

impl std::fmt::Display for ExternalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client has attached to an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    pub metadata: Metadata,
    pub external_id: Option<ExternalId>,
}

/// Changes of labels, as RFC 7396 merges them: what is absent stays, what is null goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelsPatch {
    /// `Some(None)` removes all entries, a value of `None` removes one.
    pub metadata: Option<Option<BTreeMap<String, Option<String>>>>,
    /// `Some(None)` removes it.
    pub external_id: Option<Option<ExternalId>>,
}

impl LabelsPatch {
    /// The labels after the changes.
    ///
    /// # Errors
    /// If the metadata would have too many entries, or too long ones.
    pub fn apply(self, labels: Labels) -> Result<Labels, FieldError> {
        let metadata = match self.metadata {
            None => labels.metadata,
            Some(None) => Metadata::default(),
            Some(Some(changes)) => {
                let mut entries = labels.metadata.0;
                for (key, value) in changes {
                    match value {
                        Some(value) => entries.insert(key, value),
                        None => entries.remove(&key),
                    };
                }
                Metadata::try_from(entries).map_err(|error| {
                    FieldError::new("/metadata", Code::InvalidValue, error.to_string())
                })?
            }
        };
        let external_id = self.external_id.unwrap_or(labels.external_id);
        Ok(Labels { metadata, external_id })
    }
}

/// The revision of an object, and what is attached to it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Grows with every change of what the API answers for the object.
    pub revision: i64,
    /// The time of the last change.
    pub updated_at: DateTime<Utc>,
    pub labels: Labels,
}

impl Record {
    /// That of an object which has just been made.
    pub fn new(created_at: DateTime<Utc>, labels: Labels) -> Self {
        Self { revision: 1, updated_at: created_at, labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(entries: &[(&str, &str)]) -> Metadata {
        let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Metadata::try_from(entries.collect::<BTreeMap<_, _>>()).unwrap()
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let before = Labels {
            metadata: metadata(&[("a", "1"), ("b", "2")]),
            external_id: ExternalId::try_from("order".to_owned()).ok(),
        };
        let changes = [("a".to_owned(), None), ("c".to_owned(), Some("3".to_owned()))];
        let patch = LabelsPatch { metadata: Some(Some(changes.into())), external_id: None };

        let after = patch.apply(before.clone()).unwrap();

        assert_eq!(after.metadata, metadata(&[("b", "2"), ("c", "3")]));
        assert_eq!(after.external_id, before.external_id);
        let patch = LabelsPatch { metadata: Some(None), external_id: Some(None) };
        assert_eq!(patch.apply(before).unwrap(), Labels::default());
    }

    #[test]
    fn metadata_and_external_ids_are_bounded() {
        let of = |count: usize| -> BTreeMap<String, String> {
            (0..count).map(|index| (index.to_string(), String::new())).collect()
        };
        assert!(Metadata::try_from(of(16)).is_ok());
        assert!(Metadata::try_from(of(17)).is_err());
        let one = |key: usize, value: usize| {
            Metadata::try_from(BTreeMap::from([("é".repeat(key), "é".repeat(value))]))
        };
        assert!(one(64, 512).is_ok());
        assert!(one(65, 1).is_err() && one(0, 1).is_err() && one(1, 513).is_err());
        for (text, fits) in
            [("é".repeat(255), true), ("e".repeat(256), false), (String::new(), false)]
        {
            assert_eq!(ExternalId::try_from(text).is_ok(), fits);
        }
        assert!(ExternalId::try_from("a\nb".to_owned()).is_err());
    }
}
