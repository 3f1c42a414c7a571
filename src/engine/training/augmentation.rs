//! Photos and class images as the training sees them: cropped, resized, placed, with words for their size.
//!
//! The size augmentation is the paper's §3.2 in the form of its first implementation: two thirds of the draws take a
//! size from `[S/3, S]`, one third from `[1.2 S, 1.4 S)`. A small photo is pasted on a grey canvas, and only its own
//! latent cells count in the loss. A large one is cropped. The caption says which.

use image::imageops::{self, FilterType};
use image::{GenericImageView, GrayImage, ImageBuffer, Pixel, RgbImage};

use crate::domain::training::TrainingRecipe;
use crate::engine::random::Random;

/// Below this share of the canvas a photo is pasted small; from here to 1 it fills the canvas.
const SMALL: f64 = 0.6;

/// The square that the model generates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Canvas {
    /// Pixels per side.
    pub resolution: usize,
    /// Pixels per side of a latent cell.
    pub factor: usize,
}

impl Canvas {
    /// Latent cells per side.
    pub(super) fn cells(self) -> usize {
        self.resolution / self.factor
    }
}

/// One image, ready for the VAE.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PreparedImage {
    /// `(3, resolution, resolution)` in [-1, 1].
    pub pixels: Vec<f32>,
    /// `(cells, cells)`: how much a latent cell counts in the loss. 1 or 0, or the share of it that a subject mask keeps.
    pub mask: Vec<f32>,
    /// Words to put before the caption, such as `very small `; often empty.
    pub caption_prefix: String,
}

/// Makes one augmented version of an instance image: centre crop, mirror image, size.
///
/// - `subject`: a mask of the photo's size, which is cropped, mirrored and resized with it
pub(super) fn augment_instance(
    photo: &RgbImage,
    subject: Option<&GrayImage>,
    canvas: Canvas,
    recipe: &TrainingRecipe,
    random: &mut Random,
) -> PreparedImage {
    let mut square = centre_square(photo);
    let mut subject = subject.map(centre_square);
    if recipe.horizontal_flip && random.uniform() < 0.5 {
        imageops::flip_horizontal_in_place(&mut square);
        subject.iter_mut().for_each(imageops::flip_horizontal_in_place);
    }
    let kept = |cells: Vec<f32>, size: usize, left: isize, top: isize| match &subject {
        Some(subject) => cells_of_subject(cells, canvas, &resized(subject, size), left, top),
        None => cells,
    };
    let resolution = canvas.resolution;
    let size = if recipe.size_augmentation { draw_size(resolution, random) } else { resolution };
    if (size as f64) < SMALL * resolution as f64 {
        let left = random.below(resolution - size + 1);
        let top = random.below(resolution - size + 1);
        PreparedImage {
            pixels: pasted(&resized(&square, size), canvas, left, top),
            mask: kept(mask_of(canvas, left, top, size), size, left as isize, top as isize),
            caption_prefix: choose(&recipe.small_prefixes, random),
        }
    } else if size > resolution {
        let left = random.below(size - resolution + 1) as u32;
        let top = random.below(size - resolution + 1) as u32;
        let side = resolution as u32;
        let crop = resized(&square, size).view(left, top, side, side).to_image();
        PreparedImage {
            pixels: pasted(&crop, canvas, 0, 0),
            mask: kept(full_mask(canvas), size, -(left as isize), -(top as isize)),
            caption_prefix: choose(&recipe.large_prefixes, random),
        }
    } else {
        let image = whole(&square, canvas);
        PreparedImage { mask: kept(image.mask, resolution, 0, 0), ..image }
    }
}

/// Prepares a class image: centre crop, mirror image if `flip`, full size; its caption is its own.
pub(super) fn prepare_class_image(image: &RgbImage, canvas: Canvas, flip: bool) -> PreparedImage {
    let mut square = centre_square(image);
    if flip {
        imageops::flip_horizontal_in_place(&mut square);
    }
    whole(&square, canvas)
}

/// A size in pixels: even, from `[S/3, S]` with probability 2/3, else from `[1.2 S, 1.4 S)`.
fn draw_size(resolution: usize, random: &mut Random) -> usize {
    let tenths = |n: usize| n * resolution / 10;
    let size = if random.uniform() < 2.0 / 3.0 {
        let smallest = resolution / 3;
        smallest + random.below(resolution - smallest + 1)
    } else {
        tenths(12) + random.below((tenths(14) - tenths(12)).max(1))
    };
    size + size % 2
}

/// An image of bytes, in colour or gray.
type Image<P> = ImageBuffer<P, Vec<u8>>;

fn centre_square<P: Pixel<Subpixel = u8> + 'static>(image: &Image<P>) -> Image<P> {
    let (width, height) = image.dimensions();
    let side = width.min(height);
    image.view((width - side) / 2, (height - side) / 2, side, side).to_image()
}

/// Bicubic with antialiasing, as Pillow's `BICUBIC`.
fn resized<P: Pixel<Subpixel = u8> + 'static>(image: &Image<P>, size: usize) -> Image<P> {
    imageops::resize(image, size as u32, size as u32, FilterType::CatmullRom)
}

fn whole(square: &RgbImage, canvas: Canvas) -> PreparedImage {
    PreparedImage {
        pixels: pasted(&resized(square, canvas.resolution), canvas, 0, 0),
        mask: full_mask(canvas),
        caption_prefix: String::new(),
    }
}

/// `(3, resolution, resolution)`: zeros (mid-grey), with the image at its place as `x / 127.5 − 1`.
fn pasted(image: &RgbImage, canvas: Canvas, left: usize, top: usize) -> Vec<f32> {
    let side = canvas.resolution;
    let mut pixels = vec![0.0; 3 * side * side];
    for (x, y, colour) in image.enumerate_pixels() {
        for (channel, &value) in colour.0.iter().enumerate() {
            pixels[(channel * side + top + y as usize) * side + left + x as usize] =
                f32::from(value) / 127.5 - 1.0;
        }
    }
    pixels
}

fn full_mask(canvas: Canvas) -> Vec<f32> {
    vec![1.0; canvas.cells() * canvas.cells()]
}

/// The latent cells that lie wholly inside the pasted square, less one on each side.
fn mask_of(canvas: Canvas, left: usize, top: usize, size: usize) -> Vec<f32> {
    let inside = |start: usize| {
        (start / canvas.factor + 1)..((start + size) / canvas.factor).saturating_sub(1)
    };
    let (columns, rows) = (inside(left), inside(top));
    let mut mask = vec![0.0; canvas.cells() * canvas.cells()];
    for row in rows {
        for column in columns.clone() {
            mask[row * canvas.cells() + column] = 1.0;
        }
    }
    mask
}

/// The latent cells, each by the share of it that the subject mask keeps.
///
/// - `subject`: the mask of the resized square
/// - `left`, `top`: where that lies on the canvas; negative if it is cropped there
fn cells_of_subject(
    mut cells: Vec<f32>,
    canvas: Canvas,
    subject: &GrayImage,
    left: isize,
    top: isize,
) -> Vec<f32> {
    let side = subject.width() as isize;
    let level = |x: usize, y: usize| {
        let (x, y) = (x as isize - left, y as isize - top);
        let is_inside = (0..side).contains(&x) && (0..side).contains(&y);
        if is_inside { f32::from(subject.get_pixel(x as u32, y as u32).0[0]) } else { 0.0 }
    };
    for (index, cell) in cells.iter_mut().enumerate() {
        let (column, row) = (index % canvas.cells(), index / canvas.cells());
        let pixels = |at: usize| at * canvas.factor..(at + 1) * canvas.factor;
        let sum: f32 = pixels(row).map(|y| pixels(column).map(|x| level(x, y)).sum::<f32>()).sum();
        *cell *= sum / (255 * canvas.factor * canvas.factor) as f32;
    }
    cells
}

fn choose(prefixes: &[String], random: &mut Random) -> String {
    if prefixes.is_empty() { String::new() } else { prefixes[random.below(prefixes.len())].clone() }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::engine::random::Purpose;

    const SD: Canvas = Canvas { resolution: 512, factor: 8 };

    fn side(mask: &[f32]) -> usize {
        (mask.iter().sum::<f32>() as f64).sqrt().round() as usize
    }

    #[test]
    fn the_mask_leaves_out_one_cell_on_each_side() {
        // Sizes and cells as the reference implementation gives them.
        assert_eq!(side(&mask_of(SD, 0, 0, 170)), 19);
        assert_eq!(side(&mask_of(SD, 8, 8, 256)), 30);
    }

    #[test]
    fn a_mask_never_reaches_outside_the_pasted_square() {
        for left in 0..(512 - 170) {
            for (cell, &value) in mask_of(SD, left, 3, 170).iter().enumerate() {
                let column = cell % SD.cells();
                assert!(
                    value < 0.5 || (column * 8 >= left && (column + 1) * 8 <= left + 170),
                    "left {left}"
                );
            }
        }
    }

    #[test]
    fn sizes_are_even_and_fall_in_the_two_ranges() {
        let mut random = Random::new(1, Purpose::Augmentation, 0, 0);
        let sizes: Vec<usize> = (0..3000).map(|_| draw_size(512, &mut random)).collect();

        assert!(sizes.iter().all(
            |size| size % 2 == 0 && ((170..=512).contains(size) || (614..=716).contains(size))
        ));
        let large = sizes.iter().filter(|&&size| size > 512).count();
        assert!((900..1100).contains(&large), "{large} of 3000 are large");
    }

    #[test]
    fn words_go_with_sizes() {
        let photo = RgbImage::from_pixel(64, 48, Rgb([255, 0, 0]));
        let recipe = TrainingRecipe::paper();
        for draw in 0..200 {
            let mut random = Random::new(2, Purpose::Augmentation, 0, draw);
            let image = augment_instance(&photo, None, SD, &recipe, &mut random);
            let full = image.mask.iter().all(|&cell| cell > 0.5);
            let small = recipe.small_prefixes.contains(&image.caption_prefix);
            let grey = image.pixels.iter().any(|&value| value.abs() < 1e-6);

            assert_eq!(small, !full, "the mask is partial exactly if the caption says small");
            assert_eq!(small, grey, "only a small photo leaves canvas to see");
        }
    }

    #[test]
    fn a_subject_mask_goes_with_its_photo() {
        // The photo is bright where the mask keeps it, so that each cell can be compared with the pixels that it stands for.
        let is_subject = |x: u32, y: u32| (90..200).contains(&x) && (30..90).contains(&y);
        let photo = RgbImage::from_fn(256, 160, |x, y| Rgb([255 * u8::from(is_subject(x, y)); 3]));
        let mask =
            GrayImage::from_fn(256, 160, |x, y| image::Luma([255 * u8::from(is_subject(x, y))]));
        let recipe = TrainingRecipe::paper();
        let canvas = Canvas { resolution: 64, factor: 8 };
        let mut seen = [0; 3];
        for draw in 0..100 {
            let mut random = Random::new(3, Purpose::Augmentation, 0, draw);
            let image = augment_instance(&photo, Some(&mask), canvas, &recipe, &mut random);
            let mut random = Random::new(3, Purpose::Augmentation, 0, draw);
            let plain = augment_instance(&photo, None, canvas, &recipe, &mut random);

            assert_eq!(
                (&image.pixels, &image.caption_prefix),
                (&plain.pixels, &plain.caption_prefix)
            );
            for (cell, (&kept, &whole)) in image.mask.iter().zip(&plain.mask).enumerate() {
                let (column, row) = (cell % 8, cell / 8);
                let pixels = (0..64).map(|i| (row * 8 + i / 8) * 64 + column * 8 + i % 8);
                let bright: f32 =
                    pixels.map(|at| (image.pixels[at] + 1.0) / 2.0).sum::<f32>() / 64.0;
                assert!((kept - whole * bright).abs() < 0.02, "draw {draw}: {kept} and {bright}");
                seen[if kept < 0.01 {
                    0
                } else if kept < 0.99 {
                    1
                } else {
                    2
                }] += 1;
            }
        }
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
    }

    #[test]
    fn a_photo_that_is_not_square_is_cropped_and_never_squashed() {
        // A square in the middle of a wide photo stays a square.
        let photo = RgbImage::from_fn(192, 64, |x, y| {
            if (80..112).contains(&x) && (16..48).contains(&y) {
                Rgb([255; 3])
            } else {
                Rgb([0; 3])
            }
        });

        let image = prepare_class_image(&photo, Canvas { resolution: 64, factor: 4 }, false);

        let bright = |x: usize, y: usize| image.pixels[y * 64 + x] > 0.0;
        assert!(bright(17, 32) && bright(46, 32) && bright(32, 17) && bright(32, 46));
        assert!(!bright(14, 32) && !bright(49, 32));
    }
}
