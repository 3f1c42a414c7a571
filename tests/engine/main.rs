//! Tests of the engine alone.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod base_model;
mod clip;
mod clip_folders;
mod conditioning;
mod deltas;
mod devices;
mod foreign_folders;
mod late_starts;
mod learning;
mod merging;
mod ops;
mod oracle;
mod regions;
mod running_batch;
mod sampler;
mod training;
