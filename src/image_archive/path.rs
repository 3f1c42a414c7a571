//! Paths in archives and in `metadata.jsonl`: what is safe, what is rubbish, what kind of file it is.

use unicode_normalization::UnicodeNormalization;

/// Why a path is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnsafePath {
    #[error("it is absolute")]
    Absolute,
    #[error("it leaves its folder by `..`")]
    Outside,
    #[error("it has a control character")]
    Control,
    #[error("it is empty")]
    Empty,
}

/// What a file is for, by its path alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Image,
    /// One caption, of the image with the same name.
    SideFile,
    Metadata,
    /// An image in a format that is not taken.
    OtherImage,
    /// What systems and programs leave in folders.
    Rubbish,
    Other,
}

/// A relative path with `/` between its parts and without `.`; programs on Windows write `\`. Letters with accents are one
/// character each; a Mac writes two in names, and one in `metadata.jsonl`.
pub(super) fn clean(path: &str) -> Result<String, UnsafePath> {
    let path: String = path.replace('\\', "/").nfc().collect();
    let has_drive = path.as_bytes().get(1) == Some(&b':')
        && path.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    if path.starts_with('/') || has_drive {
        return Err(UnsafePath::Absolute);
    }
    if path.chars().any(char::is_control) {
        return Err(UnsafePath::Control);
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(UnsafePath::Outside);
    }
    if parts.is_empty() { Err(UnsafePath::Empty) } else { Ok(parts.join("/")) }
}

/// - `path`: a clean one
pub(super) fn kind(path: &str) -> FileKind {
    let is_rubbish = |part: &str| {
        part.starts_with('.')
            || ["__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "@eadir"]
                .contains(&part.to_lowercase().as_str())
    };
    if path.split('/').any(is_rubbish) {
        return FileKind::Rubbish;
    }
    let (_, name) = split(path);
    if name.eq_ignore_ascii_case("metadata.jsonl") {
        return FileKind::Metadata;
    }
    match extension(name).as_str() {
        "png" | "jpg" | "jpeg" | "jpe" | "jfif" | "webp" => FileKind::Image,
        "txt" | "caption" => FileKind::SideFile,
        "gif" | "bmp" | "tif" | "tiff" | "avif" | "heic" | "heif" | "jxl" | "jp2" | "tga" => {
            FileKind::OtherImage
        }
        _ => FileKind::Other,
    }
}

/// Folder and name; the folder of what lies at the root is empty.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The path of a name in a folder.
pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// A path without its last extension.
pub(super) fn stem(path: &str) -> &str {
    let (folder, name) = split(path);
    let end = name.rfind('.').filter(|dot| *dot > 0).unwrap_or(name.len());
    let start = if folder.is_empty() { 0 } else { folder.len() + 1 };
    &path[..start + end]
}

fn extension(name: &str) -> String {
    name.rsplit_once('.').map_or_else(String::new, |(_, extension)| extension.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_made_plain_or_refused() {
        for (path, plain) in [
            ("a.png", Ok("a.png")),
            ("./img//1.png", Ok("img/1.png")),
            ("img\\1.png", Ok("img/1.png")),
            ("a..b/c...png", Ok("a..b/c...png")),
            ("u\u{308}.png", Ok("ü.png")),
            ("/1.png", Err(UnsafePath::Absolute)),
            ("\\1.png", Err(UnsafePath::Absolute)),
            ("C:\\1.png", Err(UnsafePath::Absolute)),
            ("../1.png", Err(UnsafePath::Outside)),
            ("img/../../1.png", Err(UnsafePath::Outside)),
            ("img\\..\\1.png", Err(UnsafePath::Outside)),
            ("1\0.png", Err(UnsafePath::Control)),
            ("./", Err(UnsafePath::Empty)),
        ] {
            assert_eq!(clean(path).as_deref(), plain.as_ref().map(|plain| *plain), "{path:?}");
        }
    }

    #[test]
    fn rubbish_is_known_wherever_it_lies() {
        for path in [
            "__MACOSX/set/._a.png",
            "set/._a.png",
            ".DS_Store",
            "a/Thumbs.db",
            "desktop.ini",
            ".git/x.png",
        ] {
            assert_eq!(kind(path), FileKind::Rubbish, "{path}");
        }
        assert_eq!(kind("a.b/C.PNG"), FileKind::Image);
        assert_eq!(kind("a/metadata.jsonl"), FileKind::Metadata);
    }

    #[test]
    fn a_stem_loses_the_last_extension_only() {
        assert_eq!(stem("a.b/c.d.png"), "a.b/c.d");
        assert_eq!(stem("c"), "c");
        assert_eq!(stem("a.b/c"), "a.b/c");
    }
}
