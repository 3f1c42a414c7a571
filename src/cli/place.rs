//! Where results are saved. It is looked at first, so that nothing is generated in vain.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};

use super::exit::Usage;

/// Endings that nobody gives a folder.
const OTHER_IMAGES: [&str; 5] = ["jpg", "jpeg", "webp", "gif", "bmp"];

/// Where images are saved.
pub(super) enum Place {
    Folder(PathBuf),
    File(PathBuf),
}

impl Place {
    /// A file if the path ends in `.png`, otherwise a folder, which is made.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub(super) fn at(out: &Path) -> Result<Self> {
        let extension = out.extension().unwrap_or_default().to_ascii_lowercase();
        if extension == "png" && !out.is_dir() {
            file(out)?;
            Ok(Self::File(out.to_owned()))
        } else if out.is_file()
            || (!out.is_dir() && OTHER_IMAGES.iter().any(|other| extension == *other))
        {
            let shown = out.display();
            Err(Error::new(Usage(format!(
                "-o {shown}: images are saved as .png, or into a folder"
            ))))
        } else {
            folder(out)?;
            Ok(Self::Folder(out.to_owned()))
        }
    }

    /// The file of one of several images.
    ///
    /// - `id`: the image's
    /// - `index`: from 0
    pub(super) fn file(&self, id: &str, index: usize, count: usize) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(format!("{id}.png")),
            Self::File(file) if count == 1 => file.clone(),
            Self::File(file) => {
                let mut name = file.file_stem().unwrap_or_default().to_owned();
                name.push(format!("-{index}.png"));
                file.with_file_name(name)
            }
        }
    }
}

/// Makes a folder unless it is there.
///
/// # Errors
/// If it cannot be made or written to.
pub(super) fn folder(path: &Path) -> Result<()> {
    let shown = path.display();
    std::fs::create_dir_all(path).with_context(|| format!("the folder {shown} cannot be made"))?;
    // A file without a name leaves nothing behind.
    let probe = tempfile::tempfile_in(path);
    probe.map(drop).with_context(|| format!("the folder {shown} cannot be written to"))
}

/// Makes the folder of a file.
///
/// # Errors
/// If the file cannot be written to.
pub(super) fn file(path: &Path) -> Result<()> {
    if path.exists() {
        let opened = File::options().append(true).open(path);
        return opened
            .map(drop)
            .with_context(|| format!("{} cannot be written to", path.display()));
    }
    match path.parent() {
        Some(parent) if parent != Path::new("") => folder(parent),
        Some(_) | None => folder(Path::new(".")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_go_into_a_folder_or_into_files_of_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = Place::at(&dir.path().join("new/rex.png")).unwrap();
        let folder = Place::at(&dir.path().join("out")).unwrap();

        assert_eq!(file.file("img_1", 0, 1), dir.path().join("new/rex.png"));
        assert_eq!(file.file("img_1", 3, 4), dir.path().join("new/rex-3.png"));
        assert_eq!(folder.file("img_1", 0, 1), dir.path().join("out/img_1.png"));
        assert!(dir.path().join("out").is_dir() && dir.path().join("new").is_dir());
    }

    #[test]
    fn what_is_no_place_for_images_is_said_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("notes.txt");
        std::fs::write(&taken, "").unwrap();

        for (out, why) in [
            (taken.clone(), "saved as .png"),
            (dir.path().join("rex.JPG"), "saved as .png"),
            (taken.join("out"), "cannot be made"),
            (taken.join("rex.png"), "cannot be made"),
        ] {
            let error = Place::at(&out).err().expect("no place").to_string();
            assert!(error.contains(why), "{out:?}: {error}");
        }
    }
}
