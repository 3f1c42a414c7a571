//! Token buckets: how often a key may ask, in this process.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::domain::id::ApiKeyId;

/// Requests of each class per minute and key; 0 for no limit. As many may come at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub reads_per_minute: u32,
    pub writes_per_minute: u32,
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateClass {
    Reads,
    Writes,
}

impl RateClass {
    /// The name of the policy in the headers of an answer.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Writes => "writes",
        }
    }
}

/// What is left after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub class: RateClass,
    /// Requests per minute.
    pub quota: u32,
    /// Requests that may come at once.
    pub remaining: u32,
    /// The time until all of the quota is there again.
    pub full_after: Duration,
    /// If this request is one too many: when the next may come.
    pub retry_after: Option<Duration>,
}

/// The window of a quota.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// Buckets from which full ones, which say nothing, are removed.
const MANY: usize = 10_000;

pub(super) struct Buckets {
    rates: Rates,
    buckets: Mutex<HashMap<(ApiKeyId, RateClass), Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Buckets {
    pub(super) fn new(rates: Rates) -> Self {
        Self { rates, buckets: Mutex::default() }
    }

    pub(super) fn take(&self, key: ApiKeyId, class: RateClass) -> Option<Taken> {
        self.take_at(key, class, Instant::now())
    }

    fn take_at(&self, key: ApiKeyId, class: RateClass, now: Instant) -> Option<Taken> {
        let quota = match class {
            RateClass::Reads => self.rates.reads_per_minute,
            RateClass::Writes => self.rates.writes_per_minute,
        };
        if quota == 0 {
            return None;
        }
        let most = f64::from(quota);
        let per_second = most / WINDOW.as_secs_f64();
        let mut buckets = self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if buckets.len() >= MANY {
            buckets.retain(|_, bucket| now.duration_since(bucket.at) < WINDOW);
        }
        let bucket = buckets.entry((key, class)).or_insert(Bucket { tokens: most, at: now });
        let refilled = now.saturating_duration_since(bucket.at).as_secs_f64() * per_second;
        *bucket = Bucket { tokens: (bucket.tokens + refilled).min(most), at: now };
        let retry_after = match bucket.tokens >= 1.0 {
            true => {
                bucket.tokens -= 1.0;
                None
            }
            false => Some(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second)),
        };
        Some(Taken {
            class,
            quota,
            remaining: bucket.tokens as u32,
            full_after: Duration::from_secs_f64((most - bucket.tokens) / per_second),
            retry_after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_emptied_and_fills_again() {
        let buckets = Buckets::new(Rates { reads_per_minute: 60, writes_per_minute: 0 });
        let (key, began) = (ApiKeyId::generate(), Instant::now());
        let take = |after: f64| {
            let now = began + Duration::from_secs_f64(after);
            buckets.take_at(key, RateClass::Reads, now).unwrap()
        };

        let first = take(0.0);
        for _ in 1..60 {
            assert_eq!(take(0.0).retry_after, None);
        }
        let refused = take(0.0);

        assert_eq!((first.quota, first.remaining), (60, 59));
        assert_eq!((refused.remaining, refused.retry_after), (0, Some(Duration::from_secs(1))));
        assert_eq!(refused.full_after, Duration::from_secs(60));
        assert!(take(0.5).retry_after.is_some());
        assert!(take(1.1).retry_after.is_none());
        assert!(buckets.take(key, RateClass::Writes).is_none(), "0 is no limit");
        let other = buckets.take_at(ApiKeyId::generate(), RateClass::Reads, began).unwrap();
        assert_eq!(other.remaining, 59, "each key has its own");
    }
}
