//! Which images go through the UNet together.

use crate::domain::sample::Determinism;

/// Which images share a call of the UNet.
///
/// Images of one size share calls. On the CPU our operations round each element as if it were alone. A GPU's products may
/// round by the size of the batch, so there an image that asks for strict determinism has calls of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchKey {
    /// `(channels, height, width)` of the latents.
    pub(super) shape: (usize, usize, usize),
    alone: bool,
}

impl BatchKey {
    pub(super) fn new(
        shape: (usize, usize, usize),
        determinism: Determinism,
        on_cpu: bool,
    ) -> Self {
        Self { shape, alone: determinism == Determinism::Strict && !on_cpu }
    }

    pub(super) fn shares_with(&self, other: &Self) -> bool {
        self.shape == other.shape && !self.alone && !other.alone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_images_share_no_call_on_a_gpu() {
        use Determinism::{Fast, Strict};
        let images = [(16, Strict), (16, Fast), (8, Fast), (16, Strict), (16, Fast), (8, Strict)];
        let calls = |on_cpu| {
            let of = |&(side, determinism)| BatchKey::new((4, side, side), determinism, on_cpu);
            let mut keys: Vec<BatchKey> = images.iter().map(of).collect();
            keys.sort();
            let calls = keys.chunk_by(|a, b| a.shares_with(b));
            calls.map(|call| (call[0].shape.1, call.len())).collect::<Vec<_>>()
        };

        assert_eq!(calls(true), [(8, 2), (16, 4)]);
        assert_eq!(calls(false), [(8, 1), (8, 1), (16, 2), (16, 1), (16, 1)]);
    }
}
