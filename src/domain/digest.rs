//! Digests of files and objects.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of a file or an object, in lower-case hex.
///
/// A digest that a client sends is only compared: an unknown one matches nothing.
#[derive(
    Clone,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    sqlx::Type,
    utoipa::ToSchema,
)]
#[serde(transparent)]
#[sqlx(transparent)]
#[schema(value_type = String, examples("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"))]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(data_encoding::HEXLOWER.encode(&Sha256::digest(bytes)))
    }

    /// Reads a digest in hex of either case; `None` if it is not one.
    pub fn parse(hex: &str) -> Option<Self> {
        let is_one = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_one.then(|| Self(hex.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for Digest {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Digest {
    fn from(hex: String) -> Self {
        Self(hex)
    }
}

impl From<&str> for Digest {
    fn from(hex: &str) -> Self {
        Self(hex.to_owned())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl PartialEq<str> for Digest {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0) // honours `{:.12}`
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_hex_and_can_be_shown_in_short() {
        let digest = Digest::of(b"test");

        assert!(digest.starts_with("9f86d081884c") && digest.len() == 64);
        assert_eq!(format!("{digest:.12}"), "9f86d081884c");
        assert_eq!(Digest::parse(&digest.to_uppercase()), Some(digest.clone()));
        for wrong in ["", "9f86", &"g".repeat(64), &"ä".repeat(32)] {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
        assert_eq!(serde_json::to_value(&digest).unwrap(), digest.as_str());
    }
}
