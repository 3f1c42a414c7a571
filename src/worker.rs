//! Leases jobs, runs them on a device, and records the results.
//!
//! A worker holds one device. It has a lane for each kind of job: trainings and merges are leased one at a time,
//! samples as long as the running batch has room for them. The batch and merges get the device between two steps of a
//! training. What a worker writes after it has lost its lease is ignored.
//!
//! - `runner`: the lanes, from lease to conclusion; `wakeups` tells them of new jobs
//! - `kinds`: one file for each kind of job, all of the same trait in `job`
//! - `context`: what jobs work with; `lease`, `heartbeat` and `progress`: a job's lease and its progress
//! - `patience`: how jobs wait for a store or a database that is away; `checkpoints`: what ended trainings leave behind
//! - `device`: the one thread that owns the device, with `batch`, `row_budget`, `conditioner` and `fair_share`

mod backfill;
mod batch;
mod checkpoints;
mod concepts;
mod conditioner;
mod config;
mod context;
mod delta_writer;
mod device;
mod engine;
mod error;
mod fair_share;
mod faults;
mod heartbeat;
mod job;
mod job_steps;
mod kinds;
mod lease;
mod merging;
mod patience;
mod permits;
mod progress;
mod row_budget;
mod runner;
mod wakeups;

pub use config::WorkerConfig;
pub use engine::LoadedModel;
pub use faults::DeviceFaults;
pub use runner::Worker;
