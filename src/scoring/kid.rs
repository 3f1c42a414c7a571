//! The kernel inception distance (Bińkowski et al., 2018), on the evaluator's features.

use rayon::prelude::*;

use super::alignment::cosine;
use crate::domain::evaluation::report::KidEstimate;
use crate::engine::random::{Purpose, Random};
use crate::evaluator::Features;

/// The largest subset that is taken unless a request says otherwise, as in the paper.
pub const MAX_SUBSET: usize = 1000;
/// Subsets that a value is the mean of.
const SUBSETS: usize = 50;

/// The squared maximum mean discrepancy with the kernel `(x·y/d + 1)³`, the mean over random subsets of both sides.
///
/// `2·Σ k(x, x′)/(m(m−1))` leaves out the diagonal, so the estimator is unbiased and may be negative.
///
/// - `subset_size`: images of each side in a subset; the size of the smaller side if `None`, up to [`MAX_SUBSET`]
pub(super) fn kid(
    images: &Features,
    held_out: &Features,
    subset_size: Option<usize>,
) -> KidEstimate {
    let smaller = images.len().min(held_out.len());
    let size = subset_size.unwrap_or(MAX_SUBSET).min(smaller);
    if size < 2 {
        let reason = format!(
            "a distance needs two images of each side: there are {} and {} held out",
            images.len(),
            held_out.len()
        );
        return KidEstimate { subset_size: size, reason: Some(reason), ..KidEstimate::default() };
    }
    // Of the whole there is one subset only.
    let is_whole = images.len() == size && held_out.len() == size;
    let subsets = if is_whole { 1 } else { SUBSETS };
    let values: Vec<f64> = (0..subsets)
        .into_par_iter()
        .map(|subset| {
            let x = choose(images.len(), size, subset, 0);
            let y = choose(held_out.len(), size, subset, 1);
            discrepancy(&rows(images, &x), &rows(held_out, &y))
        })
        .collect();
    let mean = values.iter().sum::<f64>() / subsets as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
        / (subsets - 1).max(1) as f64;
    let std = (subsets > 1).then(|| variance.sqrt());
    KidEstimate { value: Some(mean), std, subset_size: size, subsets, reason: None }
}

/// The unbiased estimate over two sets of the same size.
fn discrepancy(x: &[&[f32]], y: &[&[f32]]) -> f64 {
    let m = x.len() as f64;
    let within = |set: &[&[f32]]| {
        let pairs = set.iter().enumerate();
        let sum: f64 = pairs.map(|(i, a)| set[..i].iter().map(|b| kernel(a, b)).sum::<f64>()).sum();
        2.0 * sum / (m * (m - 1.0))
    };
    let across: f64 = x.iter().map(|a| y.iter().map(|b| kernel(a, b)).sum::<f64>()).sum();
    within(x) + within(y) - 2.0 * across / (m * m)
}

fn kernel(x: &[f32], y: &[f32]) -> f64 {
    (cosine(x, y) / x.len() as f64 + 1.0).powi(3)
}

fn rows<'a>(features: &'a Features, places: &[usize]) -> Vec<&'a [f32]> {
    places.iter().map(|place| features.row(*place)).collect()
}

/// `size` of `count` places without repetition, in random order; all of them in their order if that is all.
fn choose(count: usize, size: usize, subset: usize, side: u64) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    if size < count {
        let mut random = Random::new(0, Purpose::Resampling, subset as u64, 1 + side);
        for place in 0..size {
            places.swap(place, place + random.below(count - place));
        }
        places.truncate(size);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ±e₁ and ±e₂.
    fn four() -> Features {
        Features::new(2, vec![1.0, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, -1.0])
    }

    #[test]
    fn a_set_against_itself_is_below_zero_by_what_the_diagonal_adds() {
        // 2(S − T)/(m(m − 1)) − 2S/m² with the kernel's sum S = 22 and its trace T = 13.5.
        let estimate = kid(&four(), &four(), None);

        assert!((estimate.value.unwrap() + 4.0 / 3.0).abs() < 1e-12, "{estimate:?}");
        assert_eq!((estimate.subset_size, estimate.subsets, estimate.std), (4, 1, None));
    }

    #[test]
    fn a_subset_is_as_large_as_the_smaller_side() {
        let two = Features::new(2, vec![1.0, 0.0, 0.0, 1.0]);

        let estimate = kid(&two, &four(), None);

        assert_eq!((estimate.subset_size, estimate.subsets), (2, SUBSETS));
        assert!(estimate.value.is_some() && estimate.std.is_some());
    }

    #[test]
    fn fewer_than_two_images_have_no_distance() {
        for count in [0, 1] {
            let few = Features::new(2, [1.0, 0.0].repeat(count));

            let estimate = kid(&few, &four(), None);

            assert_eq!(estimate.value, None);
            assert!(estimate.reason.unwrap().contains("4 held out"));
        }
    }
}
