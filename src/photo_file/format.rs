//! What a file is, by its first bytes.

use super::PhotoFileError;
use crate::domain::git_lfs;

/// A format that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Png,
    Jpeg,
    WebP,
}

const EXPORT: &str = "export it as PNG, JPEG or WebP";
const IPHONE: &str =
    "convert it to JPEG; an iPhone takes JPEGs with Settings, Camera, Formats, Most Compatible";

/// Formats that are known and not taken, by how their files begin.
const OTHERS: [(&[u8], &str); 9] = [
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF or a camera's raw file"),
    (b"MM\0*", "a TIFF or a camera's raw file"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF"),
];

impl Format {
    pub(super) fn of(file: &[u8]) -> Result<Self, PhotoFileError> {
        if file.is_empty() {
            return Err(PhotoFileError::Empty);
        }
        if git_lfs::is_pointer(file) {
            return Err(PhotoFileError::GitLfsPointer);
        }
        if file.starts_with(b"\x89PNG\r\n\x1a\n") {
            return Ok(Self::Png);
        }
        if file.starts_with(b"\xff\xd8\xff") {
            return Ok(Self::Jpeg);
        }
        if file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP") {
            return Ok(Self::WebP);
        }
        if file.get(4..8) == Some(b"ftyp") {
            return Err(of_brand(file.get(8..12).unwrap_or_default()));
        }
        let known = OTHERS.iter().find(|(beginning, _)| file.starts_with(beginning));
        Err(match known {
            Some((_, name)) => PhotoFileError::Unsupported { name, remedy: EXPORT },
            None => PhotoFileError::UnknownFormat,
        })
    }
}

/// Photos and films of the family of MPEG-4.
fn of_brand(brand: &[u8]) -> PhotoFileError {
    let (name, remedy) = match brand {
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
            ("a HEIC photo", IPHONE)
        }
        b"avif" | b"avis" => ("an AVIF image", EXPORT),
        b"crx " => ("a camera's raw file", EXPORT),
        _ => ("a video", "send single pictures of it as PNG, JPEG or WebP"),
    };
    PhotoFileError::Unsupported { name, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_of_phones_are_refused_with_what_to_do() {
        for (file, name, remedy) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "HEIC", "Most Compatible"),
            (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF", "PNG, JPEG or WebP"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0", "video", "single pictures"),
            (b"GIF89a\x01\0\x01\0", "GIF", "PNG, JPEG or WebP"),
        ] {
            let text = Format::of(file).unwrap_err().to_string();

            assert!(text.starts_with("unsupported image"), "{text}");
            assert!(text.contains(name) && text.contains(remedy), "{text}");
        }
    }

    #[test]
    fn only_the_first_bytes_say_what_a_file_is() {
        assert_eq!(Format::of(b"\xff\xd8\xff\xe0").unwrap(), Format::Jpeg);
        assert_eq!(Format::of(b"RIFF\0\0\0\0WEBPVP8 ").unwrap(), Format::WebP);
        for other in [&b"PK\x03\x04"[..], b"\xff\xd8", b"RIFF\0\0\0\0WAVE", &[0; 100]] {
            assert!(matches!(Format::of(other), Err(PhotoFileError::UnknownFormat)), "{other:?}");
        }
    }
}
