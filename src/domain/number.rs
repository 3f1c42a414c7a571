//! Numbers of requests.

/// Rounds a number of a request to six decimals.
///
/// Six decimals survive JSON and Postgres exactly, so that a manifest gives the same image again.
pub fn decimal(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}
