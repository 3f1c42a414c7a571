//! Alignments: cosines of images with prompts and with photos.

use super::statistics::mean;
use crate::evaluator::Features;

/// The cosine of two vectors of length 1.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The cosine of each image with a text.
pub(super) fn with_text(images: &Features, text: &[f32]) -> Vec<f64> {
    images.rows().map(|image| cosine(image, text)).collect()
}

/// The mean cosine of each image with the photos.
pub fn with_photos(images: &Features, photos: &Features) -> Vec<f64> {
    let of_image = |image: &[f32]| {
        let cosines: Vec<f64> = photos.rows().map(|photo| cosine(image, photo)).collect();
        mean(&cosines).unwrap_or_default()
    };
    images.rows().map(of_image).collect()
}

/// The mean cosine of each photo with the others; empty for fewer than two.
pub fn among_photos(photos: &Features) -> Vec<f64> {
    if photos.len() < 2 {
        return Vec::new();
    }
    let of_photo = |(index, photo): (usize, &[f32])| {
        let others = photos.rows().enumerate().filter(|(other, _)| *other != index);
        let cosines: Vec<f64> = others.map(|(_, other)| cosine(photo, other)).collect();
        mean(&cosines).unwrap_or_default()
    };
    photos.rows().enumerate().map(of_photo).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_photo_is_not_compared_with_itself() {
        let photos = Features::new(2, vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);

        assert_eq!(among_photos(&photos), [0.5, 0.0, 0.5]);
        assert!(among_photos(&Features::new(2, vec![1.0, 0.0])).is_empty());
    }

    #[test]
    fn an_image_is_compared_with_every_photo() {
        let images = Features::new(2, vec![1.0, 0.0, 0.6, 0.8]);
        let photos = Features::new(2, vec![1.0, 0.0, 0.0, 1.0]);

        let alignments = with_photos(&images, &photos);

        assert!((alignments[0] - 0.5).abs() < 1e-9);
        assert!((alignments[1] - 0.7).abs() < 1e-6);
        assert!(with_text(&images, &[0.0, 1.0])[0].abs() < 1e-9);
    }
}
