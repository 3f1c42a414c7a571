//! Photos and class images as the training sees them: cropped, resized, placed, with words for their size.
//!
//! The size augmentation is the paper's §3.2 in the form of its first implementation: two thirds of the draws take a
//! size from `[S/3, S]`, one third from `[1.2 S, 1.4 S)`. A small photo is pasted on a grey canvas, and only its own
//! latent cells count in the loss. A large one is cropped. The caption says which.

use image::imageops::{self, FilterType};
use image::{GenericImageView, RgbImage};

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
    /// `(cells, cells)`: 1 where a latent cell counts in the loss, else 0.
    pub mask: Vec<f32>,
    /// Words to put before the caption, such as `very small `; often empty.
    pub caption_prefix: String,
}

/// Makes one augmented version of an instance image: centre crop, mirror image, size.
pub(super) fn augment_instance(
    photo: &RgbImage,
    canvas: Canvas,
    recipe: &TrainingRecipe,
    random: &mut Random,
) -> PreparedImage {
    let mut square = centre_square(photo);
    if recipe.horizontal_flip && random.uniform() < 0.5 {
        imageops::flip_horizontal_in_place(&mut square);
    }
    let resolution = canvas.resolution;
    let size = if recipe.size_augmentation { draw_size(resolution, random) } else { resolution };
    if (size as f64) < SMALL * resolution as f64 {
        let left = random.below(resolution - size + 1);
        let top = random.below(resolution - size + 1);
        PreparedImage {
            pixels: pasted(&resized(&square, size), canvas, left, top),
            mask: mask_of(canvas, left, top, size),
            caption_prefix: choose(&recipe.small_prefixes, random),
        }
    } else if size > resolution {
        let left = random.below(size - resolution + 1) as u32;
        let top = random.below(size - resolution + 1) as u32;
        let side = resolution as u32;
        let crop = resized(&square, size).view(left, top, side, side).to_image();
        PreparedImage {
            pixels: pasted(&crop, canvas, 0, 0),
            mask: full_mask(canvas),
            caption_prefix: choose(&recipe.large_prefixes, random),
        }
    } else {
        whole(&square, canvas)
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

fn centre_square(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let side = width.min(height);
    image.view((width - side) / 2, (height - side) / 2, side, side).to_image()
}

/// Bicubic with antialiasing, as Pillow's `BICUBIC`.
fn resized(image: &RgbImage, size: usize) -> RgbImage {
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
            let image = augment_instance(&photo, SD, &recipe, &mut random);
            let full = image.mask.iter().all(|&cell| cell > 0.5);
            let small = recipe.small_prefixes.contains(&image.caption_prefix);
            let grey = image.pixels.iter().any(|&value| value.abs() < 1e-6);

            assert_eq!(small, !full, "the mask is partial exactly if the caption says small");
            assert_eq!(small, grey, "only a small photo leaves canvas to see");
        }
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
