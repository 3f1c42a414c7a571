//! What is measured of a photo's pixels, on a small copy of it.

use image::imageops::{FilterType, resize, thumbnail};
use image::{DynamicImage, GrayImage, RgbImage};

use super::Pixels;
use crate::domain::photo::{Measures, THUMBNAIL, Thumbnail};

/// The longest side of the copy, in pixels: about what a model sees.
const COPY_SIDE: u32 = 512;

impl Pixels {
    /// Contrast and sharpness, and the upright photo in a few levels of gray.
    pub fn measure(&self) -> (Measures, Thumbnail) {
        let (width, height) = self.image.dimensions();
        let small;
        let copy = if width.max(height) > COPY_SIDE {
            let side = |side: u32| (side * COPY_SIDE / width.max(height)).max(1);
            small = thumbnail(&self.image, side(width), side(height));
            &small
        } else {
            &self.image
        };
        let luma = luma(copy);
        let contrast = deviation(luma.iter().copied());
        let channel = |c: usize| deviation(copy.pixels().map(|pixel| f32::from(pixel.0[c])));
        let measures = Measures {
            contrast,
            color_contrast: channel(0).max(channel(1)).max(channel(2)),
            sharpness: laplacian(&luma, copy.width() as usize) / contrast.max(1e-3),
            ignored_profile: self.ignored_profile.map(|reason| reason.to_string()),
        };
        let levels = luma.iter().map(|&value| value.round() as u8).collect();
        let gray = GrayImage::from_raw(copy.width(), copy.height(), levels).unwrap_or_default();
        let mut gray = DynamicImage::from(gray);
        gray.apply_orientation(self.orientation);
        let side = THUMBNAIL as u32;
        let gray = resize(&gray.into_luma8(), side, side, FilterType::Triangle);
        (measures, Thumbnail(gray.into_raw()))
    }
}

fn luma(image: &RgbImage) -> Vec<f32> {
    let of = |[r, g, b]: [f32; 3]| 0.299 * r + 0.587 * g + 0.114 * b;
    image.pixels().map(|pixel| of(pixel.0.map(f32::from))).collect()
}

fn deviation(values: impl Iterator<Item = f32>) -> f32 {
    let (mut count, mut sum, mut squares) = (0_u64, 0.0, 0.0);
    for value in values {
        let value = f64::from(value);
        (count, sum, squares) = (count + 1, sum + value, squares + value * value);
    }
    let count = count.max(1) as f64;
    ((squares / count - (sum / count).powi(2)).max(0.0)).sqrt() as f32
}

/// The root mean square of `4 x − left − right − above − below`.
fn laplacian(luma: &[f32], width: usize) -> f32 {
    let height = luma.len() / width;
    let (mut count, mut squares) = (0_u64, 0.0);
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let at = y * width + x;
            let around = luma[at - 1] + luma[at + 1] + luma[at - width] + luma[at + width];
            squares += f64::from(4.0 * luma[at] - around).powi(2);
            count += 1;
        }
    }
    (squares / count.max(1) as f64).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use image::imageops::fast_blur;

    use super::*;
    use crate::domain::photo::{PhotoVerdict, findings, verdict_of};

    fn photos() -> Vec<Pixels> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/concepts");
        let mut photos = Vec::new();
        for concept in std::fs::read_dir(folder).unwrap() {
            let concept = concept.unwrap().path();
            for number in (1..=6).filter(|_| concept.is_dir()) {
                let file = std::fs::read(concept.join(format!("{number}.jpg"))).unwrap();
                photos.push(super::super::read(&file).unwrap());
            }
        }
        assert_eq!(photos.len(), 48);
        photos
    }

    fn with(image: RgbImage) -> Pixels {
        let orientation = image::metadata::Orientation::NoTransforms;
        Pixels { image, orientation, ignored_profile: None }
    }

    #[test]
    fn good_photos_are_ok_and_the_same_out_of_focus_are_not() {
        for photo in photos() {
            let (width, height) = photo.image.dimensions();
            let sharp = findings(width, height, Some(&photo.measure().0), 64);
            let blurred = with(fast_blur(&photo.image, 3.0));
            let blurred = findings(width, height, Some(&blurred.measure().0), 64);

            assert_eq!(sharp, [], "{:?}", photo.measure().0);
            assert_eq!(verdict_of(&blurred), PhotoVerdict::Warn);
        }
    }

    #[test]
    fn different_photos_of_one_thing_are_not_alike_and_copies_are() {
        let photos = photos();
        let thumbnails: Vec<Thumbnail> = photos.iter().map(|photo| photo.measure().1).collect();

        for (index, one) in thumbnails.iter().enumerate() {
            assert!(thumbnails[..index].iter().all(|other| !one.is_like(other)), "{index}");
            let half = with(thumbnail(&photos[index].image, 128, 128));
            assert!(one.is_like(&half.measure().1), "{index}");
        }
    }

    #[test]
    fn a_thumbnail_is_upright() {
        let image = RgbImage::from_fn(64, 48, |x, _| image::Rgb([4 * x as u8; 3]));
        let mut turned = with(image);
        turned.orientation = image::metadata::Orientation::Rotate90;

        let upright = with(turned.image.clone());
        let upright = with(image::imageops::rotate90(&upright.image));

        assert!(turned.measure().1.is_like(&upright.measure().1));
        assert!(!turned.measure().1.is_like(&with(turned.image.clone()).measure().1));
    }
}
