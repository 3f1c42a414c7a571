//! Whether an image shows its own prompt rather than another one.

use super::alignment::cosine;
use super::statistics::wilson;
use crate::domain::evaluation::report::Estimate;
use crate::evaluator::Features;

/// The fraction of images whose own prompt is the nearest.
///
/// A concept moves all its images in one direction, and all prompts have their words for it in common. So the mean of the
/// images and that of the prompts are taken away before cosines are compared.
///
/// - `images`: those of each prompt
/// - `prompts`: one row per prompt
pub(super) fn scene(images: &[&Features], prompts: &Features) -> Estimate {
    if images.len() < 2 {
        return Estimate::none("it takes at least two prompts that name a concept");
    }
    let vectors: Vec<(usize, &[f32])> = images
        .iter()
        .enumerate()
        .flat_map(|(prompt, images)| images.rows().map(move |image| (prompt, image)))
        .collect();
    let images = centred(vectors.iter().map(|(_, image)| *image));
    let prompts = centred(prompts.rows());
    let own = vectors.iter().map(|(prompt, _)| *prompt);
    let hits = images.iter().zip(own).filter(|(image, own)| is_nearest(image, *own, &prompts));
    let (hits, n) = (hits.count(), images.len());
    match wilson(hits, n) {
        Some((mean, interval)) => {
            Estimate { mean: Some(mean), interval: Some(interval), n, reason: None }
        }
        None => Estimate::none("there are no images"),
    }
}

/// Whether no prompt has a larger cosine than the image's own. Prompts that are one text for the evaluator are alike; an image
/// without a direction has no nearest prompt.
fn is_nearest(image: &[f32], own: usize, prompts: &[Vec<f32>]) -> bool {
    let of_own = cosine(image, &prompts[own]);
    let has_direction = image.iter().any(|value| *value != 0.0);
    has_direction && prompts.iter().all(|prompt| cosine(image, prompt) <= of_own)
}

/// The vectors without their mean, each of length 1; one that is the mean stays 0.
fn centred<'a>(vectors: impl Iterator<Item = &'a [f32]> + Clone) -> Vec<Vec<f32>> {
    let count = vectors.clone().count().max(1) as f64;
    let width = vectors.clone().next().map_or(0, <[f32]>::len);
    let mut mean = vec![0.0; width];
    for vector in vectors.clone() {
        mean.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value) / count);
    }
    let without_mean = |vector: &[f32]| {
        let moved: Vec<f64> =
            vector.iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean).collect();
        let length = moved.iter().map(|x| x * x).sum::<f64>().sqrt();
        let scale = if length > 1e-9 { 1.0 / length } else { 0.0 };
        moved.iter().map(|x| (x * scale) as f32).collect()
    };
    vectors.map(without_mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_images_have_in_common_does_not_count() {
        // All images point to the concept, the third axis. What is left decides.
        let first = Features::new(3, vec![0.1, 0.0, 0.99, 0.1, 0.02, 0.99]);
        let second = Features::new(3, vec![0.0, 0.1, 0.99, 0.1, 0.0, 0.99]);
        let prompts = Features::new(3, vec![0.8, 0.0, -0.6, 0.0, 0.8, -0.6]);

        let estimate = scene(&[&first, &second], &prompts);

        assert_eq!((estimate.mean, estimate.n), (Some(0.75), 4));
    }

    #[test]
    fn prompts_that_are_one_text_are_each_others_own() {
        let first = Features::new(2, vec![1.0, 0.1]);
        let second = Features::new(2, vec![0.1, 1.0]);
        let prompts = Features::new(2, vec![1.0, 0.0, 0.0, 1.0, 0.0, 1.0]);

        let estimate = scene(&[&first, &second, &second], &prompts);

        assert_eq!(estimate.mean, Some(1.0));
    }

    #[test]
    fn one_prompt_cannot_be_told_from_others_and_equal_images_show_none() {
        let image = Features::new(2, vec![1.0, 0.0]);
        let prompts = Features::new(2, vec![1.0, 0.0, 0.0, 1.0]);

        assert_eq!(scene(&[&image], &prompts).mean, None);
        assert_eq!(scene(&[&image, &image], &prompts).mean, Some(0.0));
    }
}
