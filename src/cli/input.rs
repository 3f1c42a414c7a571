//! The files that a command line names: photos, folders of photos, images to go on from.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result};

use super::exit::{Invalid, Usage};
use super::output::{Output, counted};

/// What the service takes from a folder.
const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Files, and the photos of folders in the order of their names. Each can be read, which is said before anything is created.
///
/// # Errors
/// [`Usage`] if a file cannot be read, [`Invalid`] if a folder has no photos.
pub(super) fn photos(out: &Output, given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in given {
        match path.is_dir() {
            true => files.extend(of_folder(out, path)?),
            false => files.push(path.clone()),
        }
    }
    files.iter().try_for_each(|file| check_readable(file))?;
    Ok(files)
}

/// Reads a file that the command line names.
///
/// # Errors
/// [`Usage`] if it cannot be read.
pub(super) fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, error: &io::Error) -> Error {
    Error::new(Usage(format!("{} cannot be read: {error}", file.display())))
}

/// # Errors
/// [`Usage`] if a file cannot be read.
pub(super) fn check_readable(file: &Path) -> Result<()> {
    // A pipe would lose what is in it.
    let opened = file.metadata().and_then(|metadata| match metadata.is_file() {
        true => File::open(file).map(drop),
        false => Ok(()),
    });
    opened.map_err(|error| unreadable(file, &error))
}

fn of_folder(out: &Output, folder: &Path) -> Result<Vec<PathBuf>> {
    let shown = folder.display();
    let (mut photos, mut others) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let file = entry.map_err(|error| unreadable(folder, &error))?.path();
        let is_hidden =
            file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        match is_photo(&file) {
            _ if is_hidden || file.is_dir() => {}
            true => photos.push(file),
            false => others.push(file),
        }
    }
    if photos.is_empty() {
        return Err(Error::new(Invalid(format!(
            "{shown} has no photos: .jpg, .jpeg, .png and .webp are taken"
        ))));
    }
    if let Some(other) = others.iter().min() {
        let (count, name) = (counted(others.len() as u64, "other file"), other.file_name());
        let name = name.unwrap_or_default().display();
        out.note(&format!("{shown}: {count} left out, such as {name}"));
    }
    photos.sort();
    Ok(photos)
}

fn is_photo(file: &Path) -> bool {
    let extension = file.extension().unwrap_or_default().to_ascii_lowercase();
    EXTENSIONS.iter().any(|known| extension == *known)
}
