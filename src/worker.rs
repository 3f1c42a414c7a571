//! Takes a job, feeds the engine, records the result.
//!
//! A worker holds one device. It has two lanes: one for trainings, which take minutes, and one for samples and merges,
//! which take seconds and are let in between two steps of a training. Both lanes claim from the catalog's queue under
//! a lease; what a worker writes after losing its lease is ignored there.

mod class_images;
mod deltas;
mod error;
mod gpu;
mod job;
mod merging;
mod model;
mod runner;
mod sampling;
mod training;

pub use class_images::ClassImageFolder;
pub use gpu::Gpu;
pub use model::LoadedModel;
pub use runner::{Worker, WorkerConfig};
