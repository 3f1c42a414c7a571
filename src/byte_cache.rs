//! A cache with a budget in bytes.

use std::hash::Hash;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::counters::CacheCounters;

/// The number of entries that a cache is laid out for. Another number costs a little speed and nothing else.
const EXPECTED_ENTRIES: usize = 1024;

/// A map that evicts what was not used for the longest time once its values exceed the budget.
pub(crate) struct ByteCache<K, V> {
    cache: Cache<K, Entry<V>, BySize>,
    counters: &'static CacheCounters,
}

#[derive(Clone)]
struct Entry<V> {
    value: V,
    size_bytes: usize,
}

#[derive(Clone)]
struct BySize;

impl<K, V> Weighter<K, Entry<V>> for BySize {
    fn weight(&self, _: &K, entry: &Entry<V>) -> u64 {
        entry.size_bytes.max(1) as u64 // what weighs nothing would stay for ever
    }
}

impl<K: Clone + Eq + Hash, V: Clone> ByteCache<K, V> {
    /// - `counters`: where its lookups are counted
    pub(crate) fn new(budget_bytes: usize, counters: &'static CacheCounters) -> Self {
        let mut options = OptionsBuilder::new();
        options.estimated_items_capacity(EXPECTED_ENTRIES).weight_capacity(budget_bytes as u64);
        // One shard: each has its part of the budget, and a large value has to fit into it.
        options.shards(1);
        // Recency decides more than frequency, and the largest value that is kept is nine tenths of the budget.
        options.hot_allocation(0.9);
        let options = options.build().unwrap_or_else(|_| unreachable!("both capacities are set"));
        let cache = Cache::with_options(
            options,
            BySize,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        );
        Self { cache, counters }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let found = self.cache.get(key).map(|entry| entry.value);
        self.counters.note(found.is_some());
        found
    }

    /// Keeps a value; one that is larger than nearly the whole budget is not kept.
    pub(crate) fn put(&self, key: K, value: V, size_bytes: usize) {
        self.cache.insert(key, Entry { value, size_bytes });
    }

    /// Returns the cached value, or makes and caches it. Callers that ask for it in the meantime wait; if making it
    /// fails, the next of them tries.
    ///
    /// - `make`: the value with its size in bytes
    pub(crate) async fn get_or_make<E>(
        &self,
        key: K,
        make: impl AsyncFnOnce() -> Result<(V, usize), E>,
    ) -> Result<V, E> {
        let mut is_hit = true;
        let entry = async {
            is_hit = false;
            let (value, size_bytes) = make().await?;
            Ok(Entry { value, size_bytes })
        };
        let found = self.cache.get_or_insert_async(&key, entry).await;
        self.counters.note(is_hit);
        Ok(found?.value)
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.cache.weight() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::DELTAS;

    #[test]
    fn the_budget_holds_whatever_comes() {
        let cache = ByteCache::new(100, &DELTAS);
        let mut hits = 0;
        for n in 0..1000_usize {
            hits += usize::from(cache.get(&(n % 37)).is_some());
            cache.put(n % 37, n, n % 41);
            assert!(cache.used_bytes() <= 100, "{} bytes", cache.used_bytes());
        }

        assert!(hits > 0 && cache.used_bytes() > 50, "{hits} hits, {} bytes", cache.used_bytes());
    }

    #[test]
    fn what_is_too_large_is_not_kept_and_moves_nothing_out() {
        let cache = ByteCache::new(100, &DELTAS);
        cache.put("a", 1, 80);

        cache.put("b", 2, 101);

        assert_eq!((cache.get(&"a"), cache.get(&"b")), (Some(1), None));
    }

    #[test]
    fn what_is_used_stays() {
        let cache = ByteCache::new(100, &DELTAS);
        cache.put(0, 0, 10);
        for n in 1..100 {
            assert_eq!(cache.get(&0), Some(0), "after {n} others");
            cache.put(n, n, 10);
        }
    }

    #[tokio::test]
    async fn those_who_ask_together_make_it_once() {
        let cache = ByteCache::new(100, &DELTAS);
        let made = std::sync::atomic::AtomicUsize::new(0);
        let ask = || {
            cache.get_or_make("a", async || {
                made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok::<_, ()>((7, 1))
            })
        };

        let (one, other) = tokio::join!(ask(), ask());

        assert_eq!((one, other), (Ok(7), Ok(7)));
        assert_eq!(made.into_inner(), 1);
    }

    #[tokio::test]
    async fn after_a_failure_the_next_one_tries() {
        let cache = ByteCache::new(100, &DELTAS);

        let failed = cache.get_or_make("a", async || Err::<(i32, usize), _>("no")).await;
        let made = cache.get_or_make("a", async || Ok::<_, &str>((7, 1))).await;

        assert_eq!((failed, made), (Err("no"), Ok(7)));
    }
}
