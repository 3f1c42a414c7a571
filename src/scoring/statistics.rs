//! Means with 95 % intervals.

use crate::domain::evaluation::report::Estimate;
use crate::engine::random::{Purpose, Random};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;
/// The 97.5 % quantile of the standard normal.
const Z: f64 = 1.959_963_984_540_054;
/// Seed of all resamples.
const SEED: u64 = 0;

/// The mean of values, with a percentile bootstrap over them.
///
/// One value says nothing about the spread, and neither do equal values: an interval of no width would look like
/// certainty.
pub fn mean_of(values: &[f64], what: &str) -> Estimate {
    let n = values.len();
    let Some(mean) = mean(values) else {
        return Estimate::none(format!("there are no {what}"));
    };
    let too_few =
        |reason: String| Estimate { mean: Some(mean), interval: None, n, reason: Some(reason) };
    if n == 1 {
        return too_few(format!("one of the {what} alone gives no interval"));
    }
    if values.iter().all(|value| value.to_bits() == values[0].to_bits()) {
        return too_few(format!("all {n} {what} have the same value, which gives no interval"));
    }
    let interval = percentile_interval(n, |picked| {
        picked.iter().map(|&index| values[index]).sum::<f64>() / n as f64
    });
    Estimate { mean: Some(mean), interval: Some(interval), n, reason: None }
}

/// The mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The middle 95 % of what a statistic is over resamples of `n` values.
///
/// - `statistic`: of the values at these places
pub(super) fn percentile_interval(n: usize, statistic: impl Fn(&[usize]) -> f64) -> [f64; 2] {
    let mut picked = vec![0; n];
    let mut results: Vec<f64> = (0..RESAMPLES)
        .map(|resample| {
            let mut random = Random::new(SEED, Purpose::Resampling, resample as u64, 0);
            picked.fill_with(|| random.below(n));
            statistic(&picked)
        })
        .collect();
    results.sort_by(f64::total_cmp);
    let at = |quantile: f64| results[((RESAMPLES - 1) as f64 * quantile).round() as usize];
    [at(0.025), at(0.975)]
}

/// The fraction of successes with Wilson's score interval; `None` of no trials.
///
/// It lies within 0 to 1 and has a width even where all or none succeed.
pub fn wilson(successes: usize, trials: usize) -> Option<(f64, [f64; 2])> {
    if trials == 0 {
        return None;
    }
    let (n, z2) = (trials as f64, Z * Z);
    let p = successes as f64 / n;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // Rounding must not lead beyond what is certain.
    let low = if successes == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if successes == trials { 1.0 } else { (centre + half).min(1.0) };
    Some((p, [low, high]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilsons_interval_has_the_published_values() {
        let near = |votes: (usize, usize), low: f64, high: f64| {
            let (_, interval) = wilson(votes.0, votes.1).unwrap();
            assert!((interval[0] - low).abs() < 1e-3, "{votes:?}: {interval:?}");
            assert!((interval[1] - high).abs() < 1e-3, "{votes:?}: {interval:?}");
        };

        near((0, 50), 0.0, 0.071);
        near((10, 10), 0.722, 1.0);
        near((1, 1), 0.207, 1.0);
        near((5, 10), 0.2366, 0.7634);
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn too_little_gives_a_reason_instead_of_an_interval() {
        let none = mean_of(&[], "images");
        let one = mean_of(&[0.5], "images");
        let equal = mean_of(&[0.5, 0.5, 0.5], "images");

        assert_eq!((none.mean, none.interval, none.n), (None, None, 0));
        assert_eq!((one.mean, one.interval, one.n), (Some(0.5), None, 1));
        assert_eq!((equal.mean, equal.interval, equal.n), (Some(0.5), None, 3));
        for estimate in [none, one, equal] {
            assert!(estimate.reason.is_some(), "{estimate:?}");
        }
    }

    #[test]
    fn a_bootstrap_is_about_two_standard_errors_wide_and_always_the_same() {
        // 0, 1, …, 99: the standard deviation is 28.87, that of the mean 2.89.
        let values: Vec<f64> = (0..100).map(f64::from).collect();

        let estimate = mean_of(&values, "values");

        let [low, high] = estimate.interval.unwrap();
        assert_eq!(estimate.mean, Some(49.5));
        assert!(
            (low - (49.5 - 5.66)).abs() < 0.6 && (high - (49.5 + 5.66)).abs() < 0.6,
            "{low} {high}"
        );
        assert_eq!(estimate, mean_of(&values, "values"));
    }
}
