//! What was used last, up to so many bytes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map that forgets what has not been used for longest once its values take more than the budget.
pub(crate) struct Lru<K, V> {
    budget_bytes: usize,
    used_bytes: usize,
    clock: u64,
    entries: HashMap<K, Entry<V>>,
    /// Keys by their last use.
    order: BTreeMap<u64, K>,
}

struct Entry<V> {
    value: V,
    size_bytes: usize,
    last_use: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Lru<K, V> {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Self {
            budget_bytes,
            used_bytes: 0,
            clock: 0,
            entries: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.get_mut(key)?;
        self.clock += 1;
        if let Some(key) = self.order.remove(&entry.last_use) {
            self.order.insert(self.clock, key);
        }
        entry.last_use = self.clock;
        Some(entry.value.clone())
    }

    /// Keeps a value; one that is larger than the whole budget is not kept.
    pub(crate) fn put(&mut self, key: K, value: V, size_bytes: usize) {
        self.remove(&key);
        if size_bytes > self.budget_bytes {
            return;
        }
        while self.used_bytes + size_bytes > self.budget_bytes {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.used_bytes -= entry.size_bytes;
            }
        }
        self.clock += 1;
        self.used_bytes += size_bytes;
        self.order.insert(self.clock, key.clone());
        self.entries.insert(key, Entry { value, size_bytes, last_use: self.clock });
    }

    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.last_use);
            self.used_bytes -= entry.size_bytes;
        }
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_not_used_for_longest_goes_first() {
        let mut cache = Lru::new(10);
        cache.put("a", 1, 4);
        cache.put("b", 2, 4);
        assert_eq!(cache.get(&"a"), Some(1));

        cache.put("c", 3, 4);

        assert_eq!((cache.get(&"a"), cache.get(&"b"), cache.get(&"c")), (Some(1), None, Some(3)));
        assert_eq!(cache.used_bytes(), 8);
    }

    #[test]
    fn the_budget_holds_whatever_comes() {
        let mut cache = Lru::new(100);
        for n in 0..1000_usize {
            cache.put(n % 37, n, n % 41);
            assert!(cache.used_bytes() <= 100);
        }

        let kept: usize = cache.entries.values().map(|entry| entry.size_bytes).sum();
        assert_eq!(kept, cache.used_bytes());
        assert_eq!(cache.order.len(), cache.entries.len());
    }

    #[test]
    fn what_is_too_large_is_not_kept_and_moves_nothing_out() {
        let mut cache = Lru::new(10);
        cache.put("a", 1, 10);

        cache.put("b", 2, 11);

        assert_eq!((cache.get(&"a"), cache.get(&"b")), (Some(1), None));
    }
}
