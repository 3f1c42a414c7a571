//! How well images show a concept, by the evaluator: image- and text-alignment as in section 4 of the paper.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::RgbImage;
use serde::Serialize;

use super::report::ImageReport;
use crate::evaluator::{Evaluator, Features};
use crate::photo_file;

/// The least [`ConceptAlignment::share`] of a concept that counts as learned. In the search for the recipe of `tiny`, images
/// at 0.5 showed the concept to the eye, if not in every detail; concepts that were ignored stayed below 0.2.
pub(super) const LEARNED_SHARE: f64 = 0.5;

/// Measures images with the evaluator.
pub(super) struct Judge {
    evaluator: Evaluator,
}

/// How well some images of one concept agree with its photos and with their prompts: mean cosines.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Alignment {
    /// Over all pairs of image and photo.
    pub(super) image: f64,
    /// Each image with its prompt, without the modifier token.
    pub(super) text: f64,
}

/// The alignments of a concept's images before and after its training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct ConceptAlignment {
    /// Image-alignment of each photo with the others: what can be expected of an image.
    pub(super) photos: f64,
    pub(super) before: Alignment,
    pub(super) after: Alignment,
}

impl ConceptAlignment {
    /// How much of the way from the base model's image-alignment to the photos' own the training has made.
    pub(super) fn share(&self) -> f64 {
        (self.after.image - self.before.image) / (self.photos - self.before.image)
    }

    pub(super) fn is_learned(&self) -> bool {
        self.share() >= LEARNED_SHARE
    }
}

impl Judge {
    pub(super) fn new(evaluator: Evaluator) -> Self {
        Self { evaluator }
    }

    /// The features of photos.
    pub(super) fn photos(&self, files: &[PathBuf]) -> Result<Features> {
        let photos = files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
        Ok(self.evaluator.image_features(&photos)?)
    }

    /// Compares images with a concept's photos and with their prompts.
    ///
    /// - `out`: the folder below which the images are
    /// - `plain`: takes a prompt's modifier token away
    pub(super) fn alignment(
        &self,
        out: &Path,
        images: &[ImageReport],
        photos: &Features,
        plain: impl Fn(&str) -> String,
    ) -> Result<Alignment> {
        let files = images.iter().map(|image| read(&out.join(&image.path)));
        let features = self.evaluator.image_features(&files.collect::<Result<Vec<_>>>()?)?;
        let prompts: Vec<String> = images.iter().map(|image| plain(&image.prompt)).collect();
        let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let texts = self.evaluator.text_features(&prompts)?;
        let of_photos =
            features.rows().flat_map(|image| photos.rows().map(move |photo| cosine(image, photo)));
        let of_prompts = features.rows().zip(texts.rows()).map(|(image, text)| cosine(image, text));
        Ok(Alignment { image: mean(of_photos), text: mean(of_prompts) })
    }
}

/// The mean cosine of photos with each other.
pub(super) fn among(photos: &Features) -> f64 {
    let rows: Vec<&[f32]> = photos.rows().collect();
    let pairs = rows
        .iter()
        .enumerate()
        .flat_map(|(first, one)| rows[first + 1..].iter().map(move |other| cosine(one, other)));
    mean(pairs)
}

fn read(file: &Path) -> Result<RgbImage> {
    let bytes =
        std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    photo_file::decode(&bytes).with_context(|| format!("{} is no image", file.display()))
}

/// Rows of [`Features`] have length 1.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_the_way_from_the_base_model_to_the_photos() {
        let of = |image| Alignment { image, text: 0.0 };
        let concept = ConceptAlignment { photos: 0.9, before: of(-0.1), after: of(0.4) };

        assert!((concept.share() - 0.5).abs() < 1e-12);
        assert!(concept.is_learned());
        assert!(!ConceptAlignment { after: of(0.39), ..concept }.is_learned());
    }

    #[test]
    fn photos_are_compared_with_each_other_and_not_with_themselves() {
        let features = Features::new(2, vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);

        assert!((among(&features) - 1.0 / 3.0).abs() < 1e-12);
    }
}
