//! Images: those that users upload, and those that samples generate.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::composition::UsedRegion;
use super::digest::Digest;
use super::id::{ConceptId, ImageId, SampleId};
use super::record::Record;
use super::storage_key::StorageKey;

/// Photos that one concept can have.
pub const MAX_PHOTOS: usize = 100;

/// The largest file of a photo.
pub const MAX_PHOTO_BYTES: usize = 20 * 1024 * 1024;

/// The longest side of a photo, in pixels.
pub const MAX_PHOTO_SIDE: u32 = 8_192;

/// The most pixels of a photo.
pub const MAX_PHOTO_PIXELS: u64 = 50_000_000;

/// The shortest side of a photo, in pixels.
pub const MIN_PHOTO_SIDE: u32 = 32;

/// How wide a thumbnail is, in pixels. There are few widths, so that many who look at an image look at the same copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "u32")]
pub struct ThumbnailWidth(u32);

impl ThumbnailWidth {
    pub const ALL: [u32; 5] = [64, 128, 256, 512, 1024];

    pub fn pixels(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for ThumbnailWidth {
    type Error = String;

    fn try_from(pixels: u32) -> Result<Self, String> {
        let known = Self::ALL.contains(&pixels).then_some(Self(pixels));
        known.ok_or_else(|| {
            format!("there is no thumbnail of width {pixels}: take 64, 128, 256, 512 or 1024")
        })
    }
}

impl PartialSchema for ThumbnailWidth {
    fn schema() -> RefOr<Schema> {
        let widths = Some(Self::ALL);
        ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(64)).enum_values(widths).into()
    }
}

impl ToSchema for ThumbnailWidth {
    fn name() -> std::borrow::Cow<'static, str> {
        "ThumbnailWidth".into()
    }
}

/// An image as the catalog has it; its PNG is an object in the store.
#[derive(Clone, Debug)]
pub struct Image {
    pub image_id: ImageId,
    pub source: ImageSource,
    pub width: i32,
    pub height: i32,
    pub size_bytes: i64,
    /// The digest of the PNG.
    pub sha256: Digest,
    pub storage_key: StorageKey,
    /// Where concepts were drawn; none unless the image was composed by regions.
    pub regions: Vec<UsedRegion>,
    pub created_at: DateTime<Utc>,
    pub record: Record,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageSource {
    /// A user's photo of a concept.
    Photo { concept_id: ConceptId, file_name: Option<String> },
    /// A user's image to start samples from.
    Upload { file_name: Option<String> },
    /// Image `index` of a sample.
    Sample { sample_id: SampleId, index: i32 },
}

/// The longest file name that is kept, in characters.
const MAX_NAME_CHARS: usize = 200;

/// The name of a file as it is stored and shown: without its folders, and without characters that are invisible or turn the writing
/// around. Nothing is ever opened by this name.
pub fn readable_name(name: &str) -> String {
    seen(name.rsplit(['/', '\\']).next().unwrap_or(name))
}

/// The same with its folders, for files of an archive: two of them may have one name.
pub fn readable_path(path: &str) -> String {
    seen(path)
}

fn seen(name: &str) -> String {
    let is_seen = |c: &char| {
        !c.is_control()
            && !matches!(
                *c,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
            )
    };
    let name: String = name.chars().filter(is_seen).take(MAX_NAME_CHARS).collect();
    match name.trim() {
        "" | "." | ".." => "unnamed".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_people_see_of_it() {
        for (raw, readable) in [
            ("../../../etc/passwd", "passwd"),
            ("..\\..\\boot.ini", "boot.ini"),
            ("photo\u{202e}gnp.exe", "photognp.exe"),
            ("a\u{0}b\r\nc\u{7f}.png", "abc.png"),
            ("  rex.png ", "rex.png"),
            ("/", "unnamed"),
            ("..", "unnamed"),
            ("süß 犬 🐶.png", "süß 犬 🐶.png"),
        ] {
            assert_eq!(readable_name(raw), readable, "{raw:?}");
        }
        assert_eq!(readable_name(&"a".repeat(10_000)).len(), MAX_NAME_CHARS);
    }
}
