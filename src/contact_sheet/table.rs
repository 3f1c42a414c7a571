//! A sheet of rows and columns: a prompt to the row, what is compared to the column.

use ab_glyph::InvalidFont;
use image::RgbImage;
use image::imageops::FilterType;

use super::{Canvas, FADED, INK};

/// Side of an image and the gaps around it, in pixels.
const SIDE: u32 = 96;
const GAP: u32 = 4;
const MARGIN: u32 = 20;
const LABEL: u32 = 180;
const TITLE: u32 = 36;
const LINE: u32 = 16;
const TEXT_SIZE: f32 = 12.0;
const TITLE_SIZE: f32 = 18.0;
/// Lines of a row's label.
const LABEL_LINES: usize = 5;

/// What a sheet shows.
#[derive(Debug)]
pub(crate) struct Table {
    /// Titles of the columns, each with a remark.
    pub(crate) columns: Vec<(String, String)>,
    /// A row above the others that has one cell over all columns; left out without cells.
    pub(crate) head: Row,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) cells: Vec<Cell>,
}

/// Some images side by side and a remark under them.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    pub(crate) images: Vec<RgbImage>,
    pub(crate) note: String,
}

impl Table {
    /// Draws the sheet.
    ///
    /// # Errors
    /// If the built-in font does not load.
    pub(crate) fn draw(&self) -> Result<RgbImage, InvalidFont> {
        let widths = self.column_widths();
        let row_height = SIDE + LINE + 3 * GAP;
        let width = 2 * MARGIN + LABEL + widths.iter().sum::<u32>();
        let width = width.max(2 * MARGIN + LABEL + self.head.width());
        let head = if self.head.cells.is_empty() { 0 } else { row_height };
        let height = 2 * MARGIN + TITLE + LINE + head + self.rows.len() as u32 * row_height;
        let mut canvas = Canvas::new(width, height)?;
        self.head.draw(&mut canvas, MARGIN, &[self.head.width()]);
        let mut y = MARGIN + head;
        let mut x = MARGIN + LABEL;
        for ((title, note), width) in self.columns.iter().zip(&widths) {
            let title = canvas.broken(title, *width as f32, TITLE_SIZE).swap_remove(0);
            canvas.write(&title, x, y, TITLE_SIZE, INK);
            canvas.write(note, x, y + TITLE - 2 * GAP, TEXT_SIZE, FADED);
            x += width;
        }
        y += TITLE + LINE;
        for row in &self.rows {
            row.draw(&mut canvas, y, &widths);
            y += row_height;
        }
        Ok(canvas.into_image())
    }

    /// Room for the most images of each column, and for its remarks.
    fn column_widths(&self) -> Vec<u32> {
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(column));
            let images = cells.map(|cell| cell.images.len()).max().unwrap_or(0);
            (images.max(2) as u32) * (SIDE + GAP) + MARGIN
        };
        (0..self.columns.len()).map(widest).collect()
    }
}

impl Row {
    /// Room for the images of all cells.
    fn width(&self) -> u32 {
        let images: usize = self.cells.iter().map(|cell| cell.images.len()).sum();
        images as u32 * (SIDE + GAP)
    }

    fn draw(&self, canvas: &mut Canvas, y: u32, widths: &[u32]) {
        let label = canvas.broken(&self.label, (LABEL - MARGIN) as f32, TEXT_SIZE);
        for (line, text) in label.iter().take(LABEL_LINES).enumerate() {
            canvas.write(text, MARGIN, y + line as u32 * LINE, TEXT_SIZE, INK);
        }
        let mut x = MARGIN + LABEL;
        for (cell, width) in self.cells.iter().zip(widths) {
            for (place, image) in cell.images.iter().enumerate() {
                let left = x + place as u32 * (SIDE + GAP);
                canvas.paste(image, left, y, SIDE, FilterType::CatmullRom);
            }
            canvas.write(&cell.note, x, y + SIDE + GAP, TEXT_SIZE, FADED);
            x += width;
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn a_sheet_has_room_for_everything_and_shows_it() {
        let red = RgbImage::from_pixel(8, 8, Rgb([255, 0, 0]));
        let cell = |images: usize| Cell { images: vec![red.clone(); images], note: "0.5".into() };
        let table = Table {
            columns: vec![("base".into(), String::new()), ("rex".into(), "share 0.9".into())],
            head: Row { label: "photos".into(), cells: vec![cell(6)] },
            rows: vec![Row { label: "photo of a dog ".repeat(40), cells: vec![cell(1), cell(4)] }],
        };

        let sheet = table.draw().unwrap();

        let red_pixels = sheet.pixels().filter(|pixel| **pixel == Rgb([255, 0, 0])).count();
        assert_eq!(red_pixels as u32, 11 * SIDE * SIDE);
    }
}
