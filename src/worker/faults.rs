//! Fault injection on the device, for tests.

use std::fmt;

use crate::domain::id::JobId;

/// Is called at places on the device's thread where an engine can fail.
///
/// An implementation may panic or block there, as the engine might. Workers of a service have none.
pub trait DeviceFaults: fmt::Debug + Send + Sync {
    /// Before a denoising step that images of these jobs take together.
    fn before_denoising_step(&self, jobs: &[JobId]) {
        let _ = jobs;
    }

    /// The number of images that a denoising step has memory for.
    fn images_in_memory(&self) -> usize {
        usize::MAX
    }

    /// After a step of a training, the encoding of images included.
    fn after_training_step(&self, job: JobId) {
        let _ = job;
    }

    /// Between two steps of the running batch, in the batch's own code.
    fn between_steps(&self) {}

    /// On the thread itself, outside of any work.
    fn on_thread(&self) {}

    /// In the async code of a job, before its work.
    fn before_job(&self, job: JobId) {
        let _ = job;
    }
}
