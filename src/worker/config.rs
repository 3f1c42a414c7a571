//! How a worker uses the queue and its device.

use std::sync::Arc;
use std::time::Duration;

use super::faults::DeviceFaults;
use crate::config::WorkerSettings;
use crate::domain::job::LEASE;

/// How a worker deals with the queue and its device.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The worker's name in the catalog.
    pub name: String,
    /// How long a job stays with a worker that has stopped renewing.
    pub lease: Duration,
    /// How often the queue is polled without a notification.
    pub poll: Duration,
    /// Elements of one call of the UNet, in images of the base model's own size, where guidance doubles an image; what
    /// the device holds if `None`.
    pub max_batch_size: Option<usize>,
    /// Fraction of the device's time that a training has while samples wait, below 1.
    pub training_share: f64,
    /// Device memory for the keys and values of recently used prompts.
    pub conditioning_cache_bytes: usize,
    /// What a training step may take beside the weights; what the device has free if `None`.
    pub memory_budget: Option<u64>,
    /// Training steps between two checkpoints; as many as cost at most 2 % of the time if `None`.
    pub checkpoint_every: Option<usize>,
    /// How long a job waits for a store or a database that is away before it fails.
    pub patience: Duration,
    /// Faults to inject on the device, for tests.
    pub faults: Option<Arc<dyn DeviceFaults>>,
}

impl From<&WorkerSettings> for WorkerConfig {
    fn from(settings: &WorkerSettings) -> Self {
        Self {
            name: name(),
            lease: LEASE,
            poll: Duration::from_secs(1),
            max_batch_size: settings.max_batch_size().map(|elements| elements as usize),
            training_share: settings.training_share,
            conditioning_cache_bytes: settings.conditioning_cache_mib << 20,
            memory_budget: settings.memory_budget.map(|size| size.0),
            checkpoint_every: settings.checkpoint_every.map(|steps| steps as usize),
            patience: Duration::from_secs(600),
            faults: None,
        }
    }
}

/// A name that says where the worker runs. Nothing depends on it: leases are told apart by their fence.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "worker" } else { host.trim() };
    format!("{host}-{}", std::process::id())
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self::from(&WorkerSettings::default())
    }
}
