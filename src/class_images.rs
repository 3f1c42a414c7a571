//! Captioned class images (the paper's regularization images): a folder in the imagefolder convention, such a folder as a zip
//! file, or the object that trainings name.

mod packed;

use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use crate::domain::concept::ClassNoun;
use crate::domain::digest::Digest;
use crate::domain::git_lfs;
use crate::domain::training::ImageSetRef;
use crate::engine::{CaptionedImage, LazyImage};
use crate::photo_file;
use crate::storage::{Storage, StorageError, StorageKey};

pub use self::packed::PackedSet;

/// Where captions are, in a folder as in an object.
const METADATA: &str = "metadata.jsonl";

/// Class images in their order, each with its caption; they are decoded when a training needs them.
#[derive(Clone, Debug, Default)]
pub struct ClassImageSet {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Its path in the folder or archive that it comes from; a number in a set that was read from its object.
    path: String,
    image: ImageFile,
    caption: String,
}

/// An image file and its caption, which is empty if there is none.
#[derive(Clone, Debug)]
pub struct CaptionedFile {
    pub path: String,
    pub caption: String,
    pub bytes: Bytes,
}

#[derive(Clone, Debug)]
enum ImageFile {
    OnDisk(PathBuf),
    InMemory(Bytes),
}

/// A line of `metadata.jsonl`.
#[derive(Serialize, Deserialize)]
struct Line {
    file_name: String,
    text: String,
}

/// Why a set is not in the object store.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the class images cannot be read")]
    Read(#[from] io::Error),
    #[error("the object store failed")]
    Storage(#[from] StorageError),
}

impl ClassImageSet {
    /// Reads the captions of a folder, or of a zip file of one, and sees that each image can be decoded: better now than
    /// when a training needs it.
    ///
    /// # Errors
    /// If a file is missing or cannot be read; the error names it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let set = match path.is_file() {
            true => Self::from_zip(&std::fs::read(path)?)?,
            false => Self::open_folder(path)?,
        };
        set.entries.par_iter().try_for_each(|entry| entry.decode().map(drop))?;
        Ok(set)
    }

    fn open_folder(dir: &Path) -> io::Result<Self> {
        let metadata = std::fs::read_to_string(dir.join(METADATA))
            .map_err(|error| io::Error::new(error.kind(), format!("{METADATA}: {error}")))?;
        let entry = |line: Line| Entry {
            image: ImageFile::OnDisk(dir.join(&line.file_name)),
            path: line.file_name,
            caption: line.text,
        };
        Ok(Self { entries: read_lines(&metadata)?.into_iter().map(entry).collect() })
    }

    /// Reads a zip file with `metadata.jsonl` and the images that it names, such as [`Self::to_zip`] writes.
    ///
    /// # Errors
    /// If the bytes are anything else.
    pub fn from_zip(bytes: &[u8]) -> io::Result<Self> {
        if git_lfs::is_pointer(bytes) {
            return Err(io::Error::other(git_lfs::REMEDY));
        }
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(io::Error::other)?;
        let mut read = |name: &str| -> io::Result<Vec<u8>> {
            let mut file = archive
                .by_name(name)
                .map_err(|error| io::Error::other(format!("`{name}`: {error}")))?;
            let mut content = Vec::new();
            file.read_to_end(&mut content)?;
            Ok(content)
        };
        let metadata = String::from_utf8(read(METADATA)?).map_err(io::Error::other)?;
        let mut entries = Vec::new();
        for line in read_lines(&metadata)? {
            let image = ImageFile::InMemory(read(&line.file_name)?.into());
            entries.push(Entry { path: line.file_name, image, caption: line.text });
        }
        Ok(Self { entries })
    }

    /// A set of these files, in their order.
    pub fn from_files(files: Vec<CaptionedFile>) -> Self {
        let entry = |CaptionedFile { path, caption, bytes }| Entry {
            image: ImageFile::InMemory(bytes),
            path,
            caption,
        };
        Self { entries: files.into_iter().map(entry).collect() }
    }

    /// Writes all images and captions as one file; the same set always gives the same bytes, whatever its files are
    /// called and wherever they lie.
    pub fn to_zip(&self) -> io::Result<Vec<u8>> {
        let options = SimpleFileOptions::DEFAULT
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::DEFAULT)
            .unix_permissions(0o644);
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let name = |index: usize| format!("{index:06}");
        archive.start_file(METADATA, options)?;
        for (index, entry) in self.entries.iter().enumerate() {
            let line = Line { file_name: name(index), text: entry.caption.clone() };
            writeln!(archive, "{}", serde_json::to_string(&line)?)?;
        }
        for (index, entry) in self.entries.iter().enumerate() {
            archive.start_file(name(index), options)?;
            archive.write_all(&entry.bytes()?)?;
        }
        Ok(archive.finish()?.into_inner())
    }

    /// How tasks name the set; `None` if it has no images.
    pub fn reference(&self) -> io::Result<Option<ImageSetRef>> {
        if self.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.reference_to(&self.to_zip()?)))
    }

    fn reference_to(&self, zip: &[u8]) -> ImageSetRef {
        let digest = Digest::of(zip);
        let storage_key = StorageKey::image_set(&digest);
        ImageSetRef { digest, storage_key, count: self.entries.len() }
    }

    /// Writes the set to the object store, unless it is there.
    ///
    /// - `reference`: what [`Self::reference`] answered
    ///
    /// # Errors
    /// [`PublishError`]; also if the folder has changed since the set was opened.
    pub async fn publish(
        &self,
        storage: &Storage,
        reference: &ImageSetRef,
    ) -> Result<(), PublishError> {
        let key = &reference.storage_key;
        if storage.exists(key).await? {
            return Ok(());
        }
        let set = self.clone();
        let file = tokio::task::spawn_blocking(move || set.to_zip()).await;
        let file = file.map_err(io::Error::other)??;
        if Digest::of(&file) != reference.digest {
            return Err(io::Error::other("the folder has changed since it was opened").into());
        }
        Ok(storage.write(key, file).await?)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All captions.
    pub fn captions(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.caption.clone()).collect()
    }

    /// The images whose caption has the noun as whole words, or all if none has: then the model does not know the
    /// class, and everything else must stay as it is.
    pub(crate) fn choose(&self, noun: &ClassNoun) -> Self {
        let of_noun = self.entries.iter().filter(|entry| has_words(&entry.caption, noun.as_str()));
        let entries: Vec<Entry> = of_noun.cloned().collect();
        if entries.is_empty() { self.clone() } else { Self { entries } }
    }

    /// Images by their places, in this order.
    ///
    /// # Errors
    /// If there is no image at one of the places.
    pub(crate) fn pick(&self, places: impl IntoIterator<Item = usize>) -> io::Result<Self> {
        let pick = |place: usize| {
            let entry = self.entries.get(place).cloned();
            entry.ok_or_else(|| io::Error::other(format!("the set has no image {place}")))
        };
        Ok(Self { entries: places.into_iter().map(pick).collect::<io::Result<_>>()? })
    }

    /// Reads and decodes all images, each with its caption.
    pub(crate) fn read(&self) -> io::Result<Vec<(RgbImage, String)>> {
        let read = |entry: &Entry| {
            let image = entry.decode().map_err(|error| {
                io::Error::new(error.kind(), format!("captioned `{}`: {error}", entry.caption))
            })?;
            Ok((image, entry.caption.clone()))
        };
        self.entries.iter().map(read).collect()
    }

    /// The images for a training, which decodes each when it needs it.
    pub(crate) fn into_images(self) -> Vec<CaptionedImage> {
        let image = |entry: Entry| CaptionedImage {
            caption: entry.caption.clone(),
            image: LazyImage::new(move || {
                let decoded = entry.decode();
                decoded.map_err(|error| format!("captioned `{}`: {error}", entry.caption))
            }),
        };
        self.entries.into_iter().map(image).collect()
    }
}

impl Entry {
    fn bytes(&self) -> io::Result<Bytes> {
        match &self.image {
            ImageFile::OnDisk(path) => {
                let file = std::fs::read(path).map_err(|error| self.named(error.kind(), &error))?;
                Ok(file.into())
            }
            ImageFile::InMemory(bytes) => Ok(bytes.clone()),
        }
    }

    fn decode(&self) -> io::Result<RgbImage> {
        let decoded = photo_file::decode(&self.bytes()?);
        decoded.map_err(|error| self.named(io::ErrorKind::InvalidData, &error))
    }

    /// An error with the file's name.
    fn named(&self, kind: io::ErrorKind, error: &dyn std::error::Error) -> io::Error {
        io::Error::new(kind, format!("class image `{}`: {error}", self.path))
    }
}

fn read_lines(metadata: &str) -> io::Result<Vec<Line>> {
    if git_lfs::is_pointer(metadata.as_bytes()) {
        return Err(io::Error::other(format!("{METADATA}: {}", git_lfs::REMEDY)));
    }
    // Some editors begin a file with a byte-order mark.
    let metadata = metadata.strip_prefix('\u{feff}').unwrap_or(metadata);
    let lines = metadata.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(index, line)| {
        serde_json::from_str(line)
            .map_err(|error| io::Error::other(format!("{METADATA}, line {}: {error}", index + 1)))
    };
    lines.map(read).collect()
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

    fn set(captions: &[&str]) -> ClassImageSet {
        let entry = |(index, caption): (usize, &&str)| Entry {
            path: index.to_string(),
            image: ImageFile::InMemory(vec![index as u8; 3].into()),
            caption: (*caption).to_owned(),
        };
        ClassImageSet { entries: captions.iter().enumerate().map(entry).collect() }
    }

    fn png_of(level: u8) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        RgbImage::from_pixel(2, 2, image::Rgb([level; 3]))
            .write_to(&mut file, image::ImageFormat::Png)
            .unwrap();
        file.into_inner()
    }

    /// Opens a folder of one class image with this name and content.
    fn open_with(name: &str, file: Option<&[u8]>) -> io::Result<ClassImageSet> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(file) = file {
            std::fs::write(dir.path().join(name), file).unwrap();
        }
        let line = Line { file_name: name.to_owned(), text: "a dog".to_owned() };
        let metadata = format!("\u{feff}{}\r\n", serde_json::to_string(&line).unwrap());
        std::fs::write(dir.path().join(METADATA), metadata).unwrap();
        ClassImageSet::open(dir.path())
    }

    fn chosen(noun: &str) -> Vec<String> {
        let set = set(&["a cat, small", "a cathedral", "a teddy bear", "Photo of a CAT", "a bear"]);
        set.choose(&ClassNoun::try_from(noun.to_owned()).unwrap()).captions()
    }

    #[test]
    fn a_noun_is_found_as_whole_words() {
        assert_eq!(chosen("cat"), ["a cat, small", "Photo of a CAT"]);
        assert_eq!(chosen("teddy bear"), ["a teddy bear"]);
    }

    #[test]
    fn an_unknown_noun_takes_the_whole_set() {
        assert_eq!(chosen("moongate").len(), 5);
    }

    #[test]
    fn a_set_survives_its_object_and_keeps_its_order() {
        let written = set(&["b", "a", "ü “quoted”"]);
        let zip = written.to_zip().unwrap();

        let read = ClassImageSet::from_zip(&zip).unwrap();

        assert_eq!(read.captions(), ["b", "a", "ü “quoted”"]);
        let bytes: Vec<Bytes> = read.entries.iter().map(|one| one.bytes().unwrap()).collect();
        assert_eq!(bytes, [vec![0; 3], vec![1; 3], vec![2; 3]]);
        assert_eq!(read.to_zip().unwrap(), zip, "the same set gives the same bytes");
        assert_eq!(read.reference().unwrap(), written.reference().unwrap());
    }

    #[test]
    fn folders_with_other_file_names_are_the_same_set() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (dir, names) in [(&one, ["1.png", "2.png"]), (&other, ["x.png", "a.png"])] {
            let mut metadata = String::new();
            for (name, caption) in names.iter().zip(["a dog", "a cat"]) {
                std::fs::write(dir.path().join(name), png_of(caption.len() as u8)).unwrap();
                let line = Line { file_name: (*name).to_owned(), text: caption.to_owned() };
                metadata += &format!("{}\n\n", serde_json::to_string(&line).unwrap());
            }
            std::fs::write(dir.path().join(METADATA), metadata).unwrap();
        }

        let reference = |dir: &tempfile::TempDir| {
            ClassImageSet::open(dir.path()).unwrap().reference().unwrap().unwrap()
        };

        assert_eq!(reference(&one), reference(&other));
        assert_eq!(reference(&one).count, 2);
        std::fs::write(other.path().join("a.png"), png_of(200)).unwrap();
        assert_ne!(reference(&one).digest, reference(&other).digest);
    }

    #[test]
    fn a_class_image_is_what_its_bytes_say() {
        assert!(open_with("1.jpg", Some(&png_of(7))).is_ok());
        assert!(open_with("1", Some(&png_of(7))).is_ok());
    }

    #[test]
    fn a_class_image_that_cannot_be_read_is_named() {
        let png = png_of(7);
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00";
        for file in [None, Some(&png[..png.len() / 2]), Some(&b"text"[..]), Some(&pointer[..])] {
            let error = open_with("7.png", file).unwrap_err();

            assert!(error.to_string().contains("`7.png`"), "{error}");
        }
    }

    #[test]
    fn what_is_not_a_set_is_refused() {
        let zip = set(&["a"]).to_zip().unwrap();

        assert!(ClassImageSet::from_zip(b"PK").is_err());
        assert!(ClassImageSet::from_zip(&zip[..zip.len() / 2]).is_err());
    }
}
