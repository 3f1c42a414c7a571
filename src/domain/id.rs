//! Ids: one type per noun, so that a training can never be looked up by the id of a concept.
//!
//! In the database an id is a UUID of version 7. Clients see a prefix and 26 base32 characters (`cpt_0193…`), which
//! sort like the UUIDs do: by creation time. That is why ids double as keyset cursors.

use std::str::FromStr;

use uuid::Uuid;

use super::invalid::{MAX_QUOTED_CHARS, shortened};

/// A text that is not an id of the wanted kind.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not the id of {what}, which has the form {prefix}_ and 26 letters or digits")]
pub struct InvalidId {
    pub text: String,
    pub prefix: &'static str,
    /// What the id would name, such as `a training`.
    pub what: String,
}

/// What ids of a type name: `a training` for `TrainingId`.
fn noun_of(type_name: &str) -> String {
    let mut noun = String::new();
    for letter in type_name.trim_end_matches("Id").chars() {
        if letter.is_ascii_uppercase() && !noun.is_empty() {
            noun.push(' ');
        }
        noun.push(letter.to_ascii_lowercase());
    }
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $pattern:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type, utoipa::ToSchema)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        #[sqlx(transparent)]
        #[schema(value_type = String, pattern = $pattern)]
        pub struct $name(pub Uuid);

        impl $name {
            /// What stands before the underscore in the published form.
            pub const PREFIX: &'static str = $prefix;

            /// An id that sorts after all ids made before.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}_{}", $prefix, encode(self.0.as_u128()))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(|bits| Self(Uuid::from_u128(bits)))
                    .ok_or_else(|| InvalidId {
                        text: shortened(text.to_owned(), MAX_QUOTED_CHARS),
                        prefix: $prefix,
                        what: noun_of(stringify!($name)),
                    })
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    )*};
}

ids! {
    /// A project: whose concepts, images and jobs something is.
    ProjectId, "prj", "^prj_[0-9a-hjkmnp-tv-z]{26}$";
    /// A thing that a user teaches.
    ConceptId, "cpt", "^cpt_[0-9a-hjkmnp-tv-z]{26}$";
    /// An uploaded or generated image.
    ImageId, "img", "^img_[0-9a-hjkmnp-tv-z]{26}$";
    /// A file that a client sends by a signed URL.
    UploadId, "upl", "^upl_[0-9a-hjkmnp-tv-z]{26}$";
    /// A set of captioned images.
    ImageSetId, "set", "^set_[0-9a-hjkmnp-tv-z]{26}$";
    /// A row of the queue; every training, merge, sample, evaluation and compression is one, with the same UUID.
    JobId, "job", "^job_[0-9a-hjkmnp-tv-z]{26}$";
    /// A training.
    TrainingId, "trn", "^trn_[0-9a-hjkmnp-tv-z]{26}$";
    /// A merge.
    MergeId, "mrg", "^mrg_[0-9a-hjkmnp-tv-z]{26}$";
    /// A sample.
    SampleId, "smp", "^smp_[0-9a-hjkmnp-tv-z]{26}$";
    /// An evaluation.
    EvaluationId, "evl", "^evl_[0-9a-hjkmnp-tv-z]{26}$";
    /// A compression of a delta.
    CompressionId, "cmp", "^cmp_[0-9a-hjkmnp-tv-z]{26}$";
    /// A preference study.
    StudyId, "pst", "^pst_[0-9a-hjkmnp-tv-z]{26}$";
    /// A key of the API.
    ApiKeyId, "key", "^key_[0-9a-hjkmnp-tv-z]{26}$";
    /// An entry of the audit log.
    AuditId, "aud", "^aud_[0-9a-hjkmnp-tv-z]{26}$";
    /// The result of a training, a merge or a compression.
    DeltaId, "dlt", "^dlt_[0-9a-hjkmnp-tv-z]{26}$";
    /// A place that is told of events.
    WebhookEndpointId, "whe", "^whe_[0-9a-hjkmnp-tv-z]{26}$";
    /// An event on its way to such a place.
    WebhookDeliveryId, "whd", "^whd_[0-9a-hjkmnp-tv-z]{26}$";
}

impl ProjectId {
    /// The project of a service without projects: everything that was made before there were any, and what is made without a key.
    pub const DEFAULT: Self = Self(Uuid::nil());
}

macro_rules! ids_of_jobs {
    ($($name:ident)*) => {$(
        impl From<JobId> for $name {
            fn from(job: JobId) -> Self {
                Self(job.0)
            }
        }

        impl From<$name> for JobId {
            fn from(id: $name) -> Self {
                Self(id.0)
            }
        }
    )*};
}

ids_of_jobs! { TrainingId MergeId SampleId EvaluationId CompressionId }

/// Crockford's base32 in lower case: no `i`, `l`, `o`, `u`.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 26;

fn encode(mut bits: u128) -> String {
    let mut text = [0; LENGTH];
    for place in text.iter_mut().rev() {
        *place = ALPHABET[(bits & 31) as usize];
        bits >>= 5;
    }
    text.iter().map(|&byte| char::from(byte)).collect()
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != LENGTH || text.as_bytes()[0] > b'7' {
        return None; // 26 · 5 = 130 bits: the first character has room for three only
    }
    text.bytes().try_fold(0_u128, |bits, byte| {
        let digit = ALPHABET.iter().position(|&letter| letter == byte)?;
        Some(bits << 5 | digit as u128)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_published_form() {
        let id = ConceptId::generate();

        assert_eq!(id.to_string().parse::<ConceptId>().unwrap(), id);
        assert_eq!(encode(u128::MAX), "7zzzzzzzzzzzzzzzzzzzzzzzzz");
        assert_eq!(decode("7zzzzzzzzzzzzzzzzzzzzzzzzz"), Some(u128::MAX));
    }

    #[test]
    fn a_text_that_is_no_id_is_told_which_kind_is_wanted() {
        let error = "cpt_1".parse::<ImageSetId>().unwrap_err().to_string();

        assert!(error.starts_with("`cpt_1` is not the id of an image set"), "{error}");
        assert!(error.contains("set_ and 26"), "{error}");
    }

    #[test]
    fn ids_of_other_kinds_and_shapes_are_refused() {
        let training = TrainingId::generate().to_string();

        for text in [
            training.as_str(),
            "cpt_",
            "cpt_8zzzzzzzzzzzzzzzzzzzzzzzzz",
            "cpt_0000000000000000000000000u",
            "rex",
        ] {
            assert!(text.parse::<ConceptId>().is_err(), "{text}");
        }
    }
}
