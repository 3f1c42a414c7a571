//! Takes a job, feeds the engine, records the result.
//!
//! A worker holds one device. It has three lanes, which claim from the catalog's queue under a lease: trainings and merges
//! are taken one at a time, samples as long as the running batch has rows for them. The batch and merges are let in
//! between two steps of a training. What a worker writes after losing its lease is ignored in the catalog.

mod backfill;
mod batch;
mod conditioner;
mod deltas;
mod device;
mod engine;
mod error;
mod fair_share;
mod job;
mod kinds;
mod lru;
mod packs;
mod permits;
mod runner;

pub use deltas::DeltaCache;
pub use device::Gpu;
pub use engine::LoadedModel;
pub(crate) use lru::Lru;
pub use runner::{Worker, WorkerConfig};
