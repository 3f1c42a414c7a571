//! Takes a job, feeds the engine, records the result.
//!
//! A worker holds one device. It has three lanes, which claim from the catalog's queue under a lease: trainings and merges
//! are taken one at a time, samples as long as the running batch has rows for them. The batch and merges are let in
//! between two steps of a training. What a worker writes after losing its lease is ignored in the catalog.

mod batch;
mod class_images;
mod conditioner;
mod deltas;
mod error;
mod gpu;
mod init_image;
mod job;
mod lru;
mod manifest;
mod merging;
mod model;
mod packs;
mod runner;
mod sampling;
mod share;
mod slots;
mod training;
mod upkeep;

pub use class_images::ClassImageFolder;
pub use deltas::DeltaCache;
pub use gpu::Gpu;
pub(crate) use lru::Lru;
pub use model::LoadedModel;
pub use runner::{Worker, WorkerConfig};
