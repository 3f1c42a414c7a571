//! Images with captions on one sheet.

mod table;

use ab_glyph::{Font, FontRef, Glyph, InvalidFont, PxScale, ScaleFont, point};
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

pub(crate) use table::{Cell, Row, Table};

const FONT: &[u8] = include_bytes!("../assets/fonts/DejaVuSans-latin.ttf");
pub(crate) const INK: Rgb<u8> = Rgb([32, 33, 36]);
pub(crate) const FADED: Rgb<u8> = Rgb([110, 113, 118]);
const PAPER: Rgb<u8> = Rgb([250, 250, 248]);

/// A sheet of paper to put images and words on.
pub(crate) struct Canvas {
    image: RgbImage,
    font: FontRef<'static>,
}

impl Canvas {
    /// An empty sheet.
    ///
    /// # Errors
    /// If the built-in font does not load.
    pub(crate) fn new(width: u32, height: u32) -> Result<Self, InvalidFont> {
        let font = FontRef::try_from_slice(FONT)?;
        Ok(Self { image: RgbImage::from_pixel(width, height, PAPER), font })
    }

    pub(crate) fn into_image(self) -> RgbImage {
        self.image
    }

    /// Puts an image of any size into a square.
    pub(crate) fn paste(
        &mut self,
        image: &RgbImage,
        x: u32,
        y: u32,
        side: u32,
        filter: FilterType,
    ) {
        let image = imageops::resize(image, side, side, filter);
        imageops::replace(&mut self.image, &image, i64::from(x), i64::from(y));
    }

    /// Breaks a text into lines of at most this width.
    pub(crate) fn broken(&self, text: &str, room: f32, size: f32) -> Vec<String> {
        let mut lines: Vec<String> = vec![String::new()];
        for word in text.split_whitespace() {
            let line = lines.pop().unwrap_or_default();
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if line.is_empty() || self.length(&longer, size) <= room {
                lines.push(longer);
            } else {
                lines.extend([line, word.to_owned()]);
            }
        }
        lines
    }

    fn length(&self, text: &str, size: f32) -> f32 {
        let font = self.font.as_scaled(PxScale::from(size));
        text.chars().map(|c| font.h_advance(font.glyph_id(c))).sum()
    }

    /// Writes one line whose top left corner is at `(x, y)`.
    pub(crate) fn write(&mut self, text: &str, x: u32, y: u32, size: f32, ink: Rgb<u8>) {
        let scale = PxScale::from(size);
        let (ascent, mut pen) = (self.font.as_scaled(scale).ascent(), x as f32);
        for c in text.chars() {
            let id = self.font.glyph_id(c);
            let glyph: Glyph = id.with_scale_and_position(scale, point(pen, y as f32 + ascent));
            pen += self.font.as_scaled(scale).h_advance(id);
            let Some(outline) = self.font.outline_glyph(glyph) else { continue };
            let bounds = outline.px_bounds();
            let image = &mut self.image;
            outline.draw(|dx, dy, coverage| {
                let (px, py) =
                    (bounds.min.x as i64 + i64::from(dx), bounds.min.y as i64 + i64::from(dy));
                let (Ok(px), Ok(py)) = (u32::try_from(px), u32::try_from(py)) else { return };
                if let Some(pixel) = image.get_pixel_mut_checked(px, py) {
                    for (value, ink) in pixel.0.iter_mut().zip(ink.0) {
                        *value = (f32::from(*value)
                            + (f32::from(ink) - f32::from(*value)) * coverage)
                            as u8;
                    }
                }
            });
        }
    }
}
