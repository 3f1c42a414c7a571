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

/// Where the file of a PNG or WebP ends by its own account.
fn end_of(file: &[u8], format: Format) -> Option<usize> {
    match format {
        Format::WebP => {
            let size = u32::from_le_bytes(file.get(4..8)?.try_into().ok()?);
            (size as usize).checked_add(8)
        }
        Format::Png => {
            let mut at: usize = 8; // behind the signature
            loop {
                let size = u32::from_be_bytes(file.get(at..at + 4)?.try_into().ok()?);
                let is_last = file.get(at + 4..at + 8)? == b"IEND";
                at = at.checked_add(12)?.checked_add(size as usize)?;
                if is_last {
                    return Some(at);
                }
            }
        }
        // Phones append films to their photos, and cameras previews.
        Format::Jpeg => None,
    }
}

/// Refuses a file that is an image and something else as well: what follows the image, or what a reader from the end finds.
///
/// Nothing of it would be stored. But whoever sends such a file means something else by it than a photo.
pub(super) fn check_single(file: &[u8], format: Format) -> Result<(), PhotoFileError> {
    const DIRECTORY: &[u8] = b"PK\x05\x06"; // the end of a zip archive's directory
    const LAST: usize = 22 + 0xffff; // with the longest comment
    let contains = |bytes: &[u8], name: &[u8]| bytes.windows(name.len()).any(|it| it == name);
    let last = &file[file.len().saturating_sub(LAST)..];
    let behind = end_of(file, format).and_then(|end| file.get(end..)).unwrap_or_default();
    let what = if contains(last, DIRECTORY) && is_directory_end(last) {
        "a zip archive"
    } else if contains(&file[..file.len().min(1024)], b"%PDF-") {
        "a PDF"
    } else if behind.iter().any(|byte| !matches!(byte, 0 | b'\n' | b'\r' | b' ')) {
        "something that follows the image"
    } else {
        return Ok(());
    };
    Err(PhotoFileError::Polyglot(what))
}

/// Whether a zip archive ends with the file, so that programs open it as one.
fn is_directory_end(last: &[u8]) -> bool {
    let mut places = last.windows(22).enumerate().filter(|(_, it)| it.starts_with(b"PK\x05\x06"));
    places.any(|(at, it)| {
        let comment = usize::from(u16::from_le_bytes([it[20], it[21]]));
        at + 22 + comment == last.len()
    })
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
    fn a_file_that_is_two_things_is_refused() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\0IEND\xae\x42\x60\x82".to_vec();
        let zip = [b"PK\x05\x06".as_slice(), &[0; 18]].concat();
        let single = |file: &[u8]| check_single(file, Format::of(file).unwrap());

        assert!(single(&png).is_ok());
        assert!(single(&[png.as_slice(), b"\0\0\n"].concat()).is_ok());
        for more in [zip.as_slice(), b"<script>alert(1)</script>", b"\0\0x"] {
            assert!(single(&[&png, more].concat()).is_err(), "{more:?}");
        }
        let jpeg = b"\xff\xd8\xff\xd9";
        assert!(single(&[jpeg, &b"\0\0\0\x18ftypmp42"[..]].concat()).is_ok(), "a moving photo");
        assert!(single(&[jpeg, zip.as_slice()].concat()).is_err());
        assert!(single(&[&jpeg[..3], b"\xfe%PDF-1.7"].concat()).is_err());
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
