//! Versions of stored formats: rows and files outlive the program that wrote them.
//!
//! A format may gain fields at any time, each with a default for what was written before it. A change that an older
//! program must not misread raises the format's version, and that program then refuses it.

use serde::{Deserialize, Serialize};

/// The version of a stored format of which this program knows versions 1 to `NEWEST`.
///
/// A document without a version was written before there were versions, and has version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FormatVersion<const NEWEST: u32>(u32);

/// The version of a stored task.
///
/// 1 is what was written before tasks had versions. Since 2, recipes have diffusers' names of fields. Since 3, trainings
/// have a `regularization` instead of `class_images`. Since 4, samples have a `composition`, and trainings may learn some
/// parts only and go on from a delta. Since 5, trainings say whether their delta is promoted, and photos may have captions and masks. A field that is added later needs `serde(default)`, so that rows which wait or have
/// ended still read.
pub type TaskVersion = FormatVersion<5>;

/// The version of `vstar.json`.
pub type ProfileVersion = FormatVersion<1>;

/// A version that this program does not know.
#[derive(Debug, thiserror::Error)]
#[error(
    "version {found} is unknown, this program reads versions 1 to {newest}: use the vstar that wrote it, or a newer one"
)]
pub struct UnknownVersion {
    pub found: u32,
    pub newest: u32,
}

impl<const NEWEST: u32> FormatVersion<NEWEST> {
    /// The version that this program writes.
    pub const NEWEST: Self = Self(NEWEST);
}

impl<const NEWEST: u32> Default for FormatVersion<NEWEST> {
    fn default() -> Self {
        Self(1)
    }
}

impl<const NEWEST: u32> TryFrom<u32> for FormatVersion<NEWEST> {
    type Error = UnknownVersion;

    fn try_from(found: u32) -> Result<Self, UnknownVersion> {
        if (1..=NEWEST).contains(&found) {
            Ok(Self(found))
        } else {
            Err(UnknownVersion { found, newest: NEWEST })
        }
    }
}

impl<const NEWEST: u32> From<FormatVersion<NEWEST>> for u32 {
    fn from(version: FormatVersion<NEWEST>) -> Self {
        version.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_a_newer_program_is_refused_with_a_reason() {
        let read = |text: &str| serde_json::from_str::<FormatVersion<2>>(text);

        assert_eq!(read("2").unwrap(), FormatVersion::NEWEST);
        assert_eq!(read("1").unwrap(), FormatVersion::default());
        for text in ["0", "3"] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("reads versions 1 to 2"), "{error}");
        }
    }
}
