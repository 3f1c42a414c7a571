//! Sheets of composed images: a group of concepts to the row, a way of composing to the column.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::RgbImage;

use crate::contact_sheet::{Cell, Row, Table};
use crate::photo_file;

/// Images of a cell.
const SHOWN: usize = 4;

/// A group's line on the sheet.
pub(super) struct Strip {
    pub(super) title: String,
    /// One of each concept.
    pub(super) photos: Vec<PathBuf>,
    /// By the name of the way: files and what is said under them.
    pub(super) cells: Vec<(&'static str, Vec<PathBuf>, String)>,
}

/// Draws the sheet into a file.
///
/// # Errors
/// If an image cannot be read, or the file not be written.
pub(super) fn draw(columns: &[&str], strips: Vec<Strip>, to: &Path) -> Result<()> {
    let mut rows = Vec::new();
    for strip in strips {
        let mut cells = vec![Cell { images: read(&strip.photos)?, note: "photos".to_owned() }];
        for column in columns {
            let its = strip.cells.iter().find(|(name, _, _)| name == column);
            cells.push(match its {
                Some((_, files, note)) => {
                    Cell { images: read(&files[..files.len().min(SHOWN)])?, note: note.clone() }
                }
                None => Cell::default(),
            });
        }
        rows.push(Row { label: strip.title, cells });
    }
    let titles = std::iter::once("").chain(columns.iter().copied());
    let table = Table {
        columns: titles.map(|title| (title.to_owned(), String::new())).collect(),
        head: Row { label: String::new(), cells: Vec::new() },
        rows,
    };
    let sheet = table.draw().context("the built-in font")?;
    sheet.save(to).with_context(|| format!("{} cannot be written", to.display()))
}

fn read(files: &[PathBuf]) -> Result<Vec<RgbImage>> {
    let read = |file: &PathBuf| {
        let bytes =
            std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        photo_file::decode(&bytes).with_context(|| format!("{} is no image", file.display()))
    };
    files.iter().map(read).collect()
}
