//! Copies of large weights in the order in which they are multiplied, for as long as a network is trained (ADR 0051).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::panels::Panels;

/// The copies of one network's weights, which all of them share.
///
/// A training multiplies by the same weights in each step, in both directions. For the time that it takes, copies are
/// worth their memory; a network that only draws reads its weights where they lie.
#[derive(Clone, Default)]
pub struct TrainingCopies(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    trainings: usize,
    copies: Vec<Arc<Panels>>,
}

/// While one of these lives, the network's weights are copied at their next use.
pub struct HeldCopies(TrainingCopies);

impl TrainingCopies {
    /// Keeps copies until the last that is held is dropped.
    #[must_use]
    pub fn hold(&self) -> HeldCopies {
        lock(&self.0).trainings += 1;
        HeldCopies(self.clone())
    }

    /// What the copies take, in bytes.
    pub fn size_bytes(&self) -> usize {
        lock(&self.0).copies.iter().map(|panels| panels.size_bytes()).sum()
    }

    /// Whether a training keeps copies.
    pub fn are_held(&self) -> bool {
        lock(&self.0).trainings > 0
    }

    fn keep(&self, panels: Arc<Panels>) {
        let mut state = lock(&self.0);
        if state.trainings > 0 {
            state.copies.push(panels);
        }
    }
}

impl Drop for HeldCopies {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        state.trainings -= 1;
        if state.trainings == 0 {
            state.copies = Vec::new();
        }
    }
}

/// Where a weight finds its copy.
#[derive(Default)]
pub(crate) struct CopyPlace(Mutex<Weak<Panels>>);

impl CopyPlace {
    /// The copy, which `pack` makes at first use; `None` unless `copies` are held.
    ///
    /// `pack` uses several threads and runs outside of all locks, as in [`get_or_init`]. Of the copies of threads that
    /// meet, the first is kept.
    ///
    /// [`get_or_init`]: crate::engine::ops::once::get_or_init
    pub(crate) fn get_or_pack(
        &self,
        copies: &TrainingCopies,
        pack: impl FnOnce() -> Panels,
    ) -> Option<Arc<Panels>> {
        if let Some(panels) = lock(&self.0).upgrade() {
            return Some(panels);
        }
        if !copies.are_held() {
            return None;
        }
        let panels = Arc::new(pack());
        let mut place = lock(&self.0);
        if let Some(first) = place.upgrade() {
            return Some(first);
        }
        *place = Arc::downgrade(&panels);
        copies.keep(panels.clone());
        Some(panels)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_live_while_one_training_holds_them() {
        let (copies, place) = (TrainingCopies::default(), CopyPlace::default());
        let get =
            || place.get_or_pack(&copies, || Panels::filled(2, 1, |_, panel| panel.fill(1.0)));
        assert!(get().is_none());

        let first = copies.hold();
        let panels = get().unwrap();
        assert!(Arc::ptr_eq(&panels, &get().unwrap()));
        assert_eq!(copies.size_bytes(), panels.size_bytes());
        drop(panels);
        let second = copies.hold();
        drop(first);
        assert!(get().is_some());
        assert!(copies.size_bytes() > 0);
        drop(second);
        assert!(get().is_none());
        assert_eq!(copies.size_bytes(), 0);
    }
}
