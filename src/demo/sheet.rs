//! The contact sheet: photos, images before and after training, and compositions, with captions.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::RgbImage;
use image::imageops::FilterType;

use super::alignment::{self, Alignment, ConceptAlignment};
use crate::contact_sheet::{Canvas, FADED, INK};

/// Side of an image and the gaps around it, in pixels.
const CELL: u32 = 144;
const GAP: u32 = 8;
const LABEL: u32 = 84;
const MARGIN: u32 = 24;
const TITLE_SIZE: f32 = 24.0;
const TEXT_SIZE: f32 = 14.0;
const LINE: u32 = 18;
/// Lines of a caption.
const CAPTION_LINES: u32 = 2;

/// Prompts with the files of their images, the same number for each.
pub(super) type ImagesByPrompt = Vec<(String, Vec<PathBuf>)>;

/// One concept's part of the sheet.
pub(super) struct ConceptPanel {
    pub(super) title: String,
    pub(super) photos: Vec<PathBuf>,
    pub(super) before: ImagesByPrompt,
    pub(super) after: ImagesByPrompt,
    /// None without an evaluator.
    pub(super) alignment: Option<ConceptAlignment>,
}

impl ConceptPanel {
    /// What is said under the rows of photos, images before and images after.
    fn remarks(&self) -> [String; 3] {
        let Some(alignment) = self.alignment else { return Default::default() };
        let row = |of: Alignment| {
            format!("alignment with the photos {:.2}, with the prompt {:.2}", of.image, of.text)
        };
        let base = alignment.before.image;
        [
            format!("alignment among themselves {:.2}", alignment.photos),
            row(alignment.before),
            format!(
                "{} (base model {base:.2}); share {:.2}{}",
                row(alignment.after),
                alignment.share(),
                if alignment.is_learned() { "" } else { ": NOT LEARNED" },
            ),
        ]
    }
}

/// The part of two concepts together.
pub(super) struct PairPanel {
    pub(super) title: String,
    pub(super) images: ImagesByPrompt,
}

/// Renders the sheet.
///
/// # Errors
/// If an image cannot be read.
pub(super) fn render(concepts: &[ConceptPanel], pairs: &[PairPanel]) -> Result<RgbImage> {
    let columns = concepts
        .iter()
        .flat_map(|panel| [panel.photos.len(), width_of(&panel.before), width_of(&panel.after)])
        .chain(pairs.iter().map(|pair| width_of(&pair.images)))
        .max()
        .unwrap_or(1) as u32;
    let row = CELL + GAP;
    let title = 44;
    let captions = CAPTION_LINES * LINE + GAP;
    let concept_height = title + 3 * (row + LINE) + 2 * captions + MARGIN;
    let pair_height = title + captions + row + MARGIN;
    let width = 2 * MARGIN + LABEL + columns * (CELL + GAP);
    let height = MARGIN + concepts.len() as u32 * concept_height + pairs.len() as u32 * pair_height;
    let mut sheet = Sheet { canvas: Canvas::new(width, height).context("the built-in font")? };

    let mut y = MARGIN;
    for panel in concepts {
        sheet.canvas.write(&panel.title, MARGIN, y, TITLE_SIZE, INK);
        y += title;
        let [of_photos, of_before, of_after] = panel.remarks();
        sheet.label("photos", y);
        for (column, photo) in panel.photos.iter().enumerate() {
            sheet.paste(photo, column as u32, y)?;
        }
        y += row;
        sheet.remark(&of_photos, y);
        y += LINE;
        let rows = [("before", &panel.before, of_before), ("after", &panel.after, of_after)];
        for (label, images, remark) in rows {
            sheet.captions(images, y);
            y += captions;
            sheet.label(label, y);
            sheet.images(images, y)?;
            y += row;
            sheet.remark(&remark, y);
            y += LINE;
        }
        y += MARGIN;
    }
    for pair in pairs {
        sheet.canvas.write(&pair.title, MARGIN, y, TITLE_SIZE, INK);
        y += title;
        sheet.captions(&pair.images, y);
        y += captions;
        sheet.label("together", y);
        sheet.images(&pair.images, y)?;
        y += row + MARGIN;
    }
    Ok(sheet.canvas.into_image())
}

/// Side of an image of a group: twice `tiny`'s, so that its pixels stay sharp and the file small.
const GROUP_CELL: u32 = 128;
const GROUP_GAP: u32 = 4;

/// A prompt's images under its text.
pub(super) struct Group {
    pub(super) caption: String,
    /// A remark, in grey.
    pub(super) note: String,
    pub(super) images: Vec<RgbImage>,
}

/// Renders lines of groups side by side, each line under its title.
///
/// # Errors
/// If the built-in font does not load.
pub(super) fn render_groups(lines: &[(String, Vec<Group>)]) -> Result<RgbImage> {
    let step = GROUP_CELL + GROUP_GAP;
    let group_width = |group: &Group| group.images.len() as u32 * step + MARGIN;
    let widths = lines.iter().map(|(_, groups)| groups.iter().map(group_width).sum());
    let width = MARGIN + widths.max().unwrap_or(0);
    let line_height = 2 * LINE + 3 * LINE + step + MARGIN;
    let height = MARGIN + lines.len() as u32 * line_height;
    let mut sheet = Sheet { canvas: Canvas::new(width, height).context("the built-in font")? };
    for (number, (title, groups)) in lines.iter().enumerate() {
        let (mut x, y) = (MARGIN, MARGIN + number as u32 * line_height);
        sheet.canvas.write(title, x, y, 1.25 * TEXT_SIZE, INK);
        for group in groups {
            sheet.canvas.write(&group.caption, x, y + 2 * LINE, TEXT_SIZE, INK);
            sheet.canvas.write(&group.note, x, y + 3 * LINE, TEXT_SIZE, FADED);
            for (column, image) in group.images.iter().enumerate() {
                let (left, top) = (x + column as u32 * step, y + 4 * LINE + GAP);
                sheet.canvas.paste(image, left, top, GROUP_CELL, FilterType::Nearest);
            }
            x += group_width(group);
        }
    }
    Ok(sheet.canvas.into_image())
}

/// Images side by side.
fn width_of(images: &ImagesByPrompt) -> usize {
    images.iter().map(|(_, paths)| paths.len()).sum()
}

struct Sheet {
    canvas: Canvas,
}

impl Sheet {
    /// Writes a word at the left of a line of images.
    fn label(&mut self, text: &str, y: u32) {
        self.canvas.write(text, MARGIN, y + CELL / 2 - LINE / 2, TEXT_SIZE, FADED);
    }

    /// Writes a sentence under a line of images.
    fn remark(&mut self, text: &str, y: u32) {
        self.canvas.write(text, MARGIN + LABEL, y, TEXT_SIZE, FADED);
    }

    fn images(&mut self, images: &ImagesByPrompt, y: u32) -> Result<()> {
        for (column, path) in images.iter().flat_map(|(_, paths)| paths).enumerate() {
            self.paste(path, column as u32, y)?;
        }
        Ok(())
    }

    /// Writes each prompt above its images, broken into lines that fit.
    fn captions(&mut self, images: &ImagesByPrompt, y: u32) {
        let mut column = 0;
        for (prompt, paths) in images {
            let room = paths.len() as u32 * (CELL + GAP) - 2 * GAP;
            for (line, text) in self
                .canvas
                .broken(prompt, room as f32, TEXT_SIZE)
                .iter()
                .take(CAPTION_LINES as usize)
                .enumerate()
            {
                let x = MARGIN + LABEL + column * (CELL + GAP);
                self.canvas.write(text, x, y + line as u32 * LINE, TEXT_SIZE, INK);
            }
            column += paths.len() as u32;
        }
    }

    fn paste(&mut self, path: &Path, column: u32, y: u32) -> Result<()> {
        let image = alignment::read(path)?;
        let x = MARGIN + LABEL + column * (CELL + GAP);
        self.canvas.paste(&image, x, y, CELL, FilterType::CatmullRom);
        Ok(())
    }
}
