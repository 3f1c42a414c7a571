//! How many denoising steps a job takes, over all of its generations.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use crate::domain::job::Phase;
use crate::engine::SampleRequest;

/// Counts a job's denoising steps, in as many generations as it makes.
#[derive(Clone, Debug)]
pub(crate) struct JobSteps {
    /// What the job's progress says meanwhile.
    pub(crate) phase: Phase,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    done: AtomicUsize,
    /// Expected at first, and corrected when an image starts.
    total: AtomicIsize,
}

impl JobSteps {
    /// - `expected`: the steps of all images, by [`Self::of`]
    pub(crate) fn new(phase: Phase, expected: usize) -> Self {
        let counts =
            Counts { done: AtomicUsize::new(0), total: AtomicIsize::new(expected as isize) };
        Self { phase, counts: Arc::new(counts) }
    }

    /// The steps that an image is expected to take.
    ///
    /// - `noise_strength`: of the image that it starts from, 1 without one
    pub(crate) fn of(num_inference_steps: usize, noise_strength: f64) -> usize {
        (num_inference_steps as f64 * noise_strength) as usize
    }

    /// Notes how many steps an image really takes: some schedulers take more than they were asked for.
    pub(crate) fn expect(&self, request: &SampleRequest, steps: usize) {
        let strength = request.init.as_ref().map_or(1.0, |init| init.noise_strength);
        let expected = Self::of(request.num_inference_steps, strength);
        self.counts.total.fetch_add(steps as isize - expected as isize, Ordering::Relaxed);
    }

    /// Counts a step: how many have been taken, and how many there are in all.
    pub(crate) fn take(&self) -> (usize, usize) {
        let done = self.counts.done.fetch_add(1, Ordering::Relaxed) + 1;
        let total = usize::try_from(self.counts.total.load(Ordering::Relaxed)).unwrap_or(0);
        (done, total.max(done))
    }
}
