//! The running batch: images that are denoised together, and join and leave between any two steps.
//!
//! The only denoising loop: the service's worker drives it step by step, [`denoise`](super::denoise) to its end.

use super::state::DenoisingState;
use super::step::step;
use crate::engine::base_model::BaseModel;
use crate::engine::error::Result;

/// Images of any concepts, prompts, sizes, step counts and schedulers, in the order in which they joined.
pub struct RunningBatch<T> {
    max_elements: usize,
    images: Vec<RunningImage<T>>,
}

/// An image in the batch.
pub struct RunningImage<T> {
    /// The caller's key for it.
    pub owner: T,
    pub state: DenoisingState,
    /// How many elements of the base model's own image size one of its elements counts for.
    pub scale: usize,
}

impl<T> RunningImage<T> {
    /// Elements of the base model's own image size that its next step takes.
    pub fn cost(&self) -> usize {
        self.state.elements() * self.scale
    }
}

impl<T> RunningBatch<T> {
    /// - `max_elements`: of one step, by [`RunningImage::cost`]; a larger image takes its steps alone
    pub fn new(max_elements: usize) -> Self {
        Self { max_elements: max_elements.max(1), images: Vec::new() }
    }

    /// From the next step on, it takes so many elements. Images that have joined stay, and take turns.
    pub fn set_max_elements(&mut self, max_elements: usize) {
        self.max_elements = max_elements.max(1);
    }

    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Whether an image of this cost can join and take its next step with all others.
    pub fn has_room_for(&self, cost: usize) -> bool {
        let taken: usize = self.images.iter().map(RunningImage::cost).sum();
        taken == 0 || taken + cost <= self.max_elements
    }

    pub fn join(&mut self, image: RunningImage<T>) {
        self.images.push(image);
    }

    /// Drops the images that `keep` is false for.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.images.retain(|image| keep(&image.owner));
    }

    /// Takes out the images that have no steps left.
    pub fn take_finished(&mut self) -> Vec<RunningImage<T>> {
        self.images.extract_if(.., |image| image.state.remaining() == 0).collect()
    }

    /// The images that take the next step: as many as fit, those that joined first before others.
    pub fn turn(&self) -> &[RunningImage<T>] {
        let mut taken = 0;
        let fit = self.images.iter().take_while(|image| {
            taken += image.cost();
            taken <= self.max_elements
        });
        let count = fit.count().max(1).min(self.images.len());
        &self.images[..count]
    }

    /// Takes the images of [`Self::turn`] one step further, and returns each one's result.
    ///
    /// If a call of several images fails, those that have not taken the step are tried one by one, so that only the
    /// image at fault fails. It stays in the batch, before its step, until the caller drops it.
    ///
    /// - `guard` makes a call of the model for the images of these owners, and may turn a panic into an error
    pub fn step<E>(
        &mut self,
        base: &BaseModel,
        guard: impl Fn(&[&T], &mut dyn FnMut() -> Result<()>) -> Result<(), E>,
        mut report: impl FnMut(&RunningImage<T>, Result<(), E>),
    ) {
        let count = self.turn().len();
        let turn = &mut self.images[..count];
        if turn.is_empty() {
            return;
        }
        let before: Vec<usize> = turn.iter().map(|image| image.state.remaining()).collect();
        let (owners, mut states): (Vec<&T>, Vec<&mut DenoisingState>) =
            turn.iter_mut().map(|image| (&image.owner, &mut image.state)).unzip();
        let together = guard(&owners, &mut || step(base, &mut states));
        for (image, before) in turn.iter_mut().zip(before) {
            let result = match &together {
                Err(_) if image.state.remaining() == before => {
                    let RunningImage { owner, state, .. } = &mut *image;
                    guard(&[&*owner], &mut || step(base, &mut [&mut *state]))
                }
                Ok(()) | Err(_) => Ok(()),
            };
            report(image, result);
        }
    }
}
