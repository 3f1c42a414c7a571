//! Every setting, read once at start from the command line and the environment.

mod access;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::domain::job::DEFAULT_QUEUE_LIMIT;
use crate::domain::webhook::url::Receivers;

pub use self::access::{AccessSettings, Auth};

/// Settings of the service and its workers.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Where private state lives when no database or object store is given.
    #[arg(long, env = "VSTAR_DATA_DIR", default_value = ".vstar")]
    pub data_dir: PathBuf,
    /// Postgres to use; a private one is started below the data folder if this is not set.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Folder with the binaries of the private Postgres. Searched for in the usual places if this is not set.
    #[arg(long, env = "VSTAR_PG_BIN")]
    pub pg_bin: Option<PathBuf>,
    /// Object store: s3://bucket/prefix, gs://…, az://… with credentials in the environment, or a folder;
    /// the data folder's `objects` if this is not set.
    #[arg(long, env = "VSTAR_OBJECT_STORE")]
    pub object_store: Option<String>,
    /// Folder of the base model in the diffusers layout.
    #[arg(long, env = "VSTAR_BASE_MODEL")]
    pub base_model: Option<PathBuf>,
    /// Folder of the CLIP model that evaluates images, in the transformers layout. Defaults to the folder `clip` beside
    /// the base model's, if there is one.
    #[arg(long, env = "VSTAR_EVALUATOR", value_name = "DIR")]
    pub evaluator: Option<PathBuf>,
    /// Where the base model runs: cpu, or cuda:0 in a build with the feature cuda. For `vstar work`, all starts a worker for
    /// each GPU, the metrics of each at the port after the last's.
    #[arg(long, env = "VSTAR_DEVICE", default_value = "cpu")]
    pub device: String,
    /// What the base model computes in, if not in the device's own: f32 on a CPU, bf16 on a GPU that has it. On a CPU with
    /// AVX512-BF16, bf16 is faster and less exact: the products of linear layers and attention round their factors.
    #[arg(long, env = "VSTAR_PRECISION", value_enum)]
    pub precision: Option<NetworkPrecision>,
    #[command(flatten)]
    pub worker: WorkerSettings,
    /// CPU threads of the engine; one per core if this is not set.
    #[arg(long, env = "VSTAR_THREADS")]
    pub threads: Option<usize>,
    /// Address for /metrics alone, such as 127.0.0.1:9100: for `vstar work`, which answers nothing else.
    #[arg(long, env = "VSTAR_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,
    #[command(flatten)]
    pub ending: EndingSettings,
}

/// What a base model can compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkPrecision {
    F32,
    Bf16,
    F16,
}

impl NetworkPrecision {
    /// Its name, as the engine takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// How a process ends.
#[derive(Clone, Debug, Args)]
pub struct EndingSettings {
    /// Seconds between SIGTERM and the end of the listener. Meanwhile /readyz answers 503 and requests are still served,
    /// so that a load balancer can look elsewhere; samples that run may finish.
    #[arg(long, env = "VSTAR_DRAIN_GRACE", value_name = "SECONDS", value_parser = parse_seconds, default_value = "5")]
    pub drain_grace: Duration,
    /// Seconds after which the process ends in any case, counted from SIGTERM.
    #[arg(long, env = "VSTAR_SHUTDOWN_TIMEOUT", value_name = "SECONDS", value_parser = parse_seconds, default_value = "25")]
    pub shutdown_timeout: Duration,
}

impl Default for EndingSettings {
    fn default() -> Self {
        Self { drain_grace: Duration::from_secs(5), shutdown_timeout: Duration::from_secs(25) }
    }
}

impl EndingSettings {
    /// # Errors
    /// If the grace leaves no time for the rest.
    pub fn check(&self) -> Result<(), String> {
        match self.drain_grace < self.shutdown_timeout {
            true => Ok(()),
            false => Err(format!(
                "--drain-grace {}: it must be less than --shutdown-timeout, which is {}",
                self.drain_grace.as_secs_f64(),
                self.shutdown_timeout.as_secs_f64()
            )),
        }
    }
}

/// How a worker divides its device and memory.
#[derive(Clone, Debug, Args)]
pub struct WorkerSettings {
    /// The largest batch of samples, in images of the base model's own size. Guidance doubles an image, and a larger
    /// image counts by its area. Defaults to 16 on the CPU, and to what the free memory holds on a GPU.
    #[arg(long, env = "VSTAR_MAX_BATCH_SIZE", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_batch_size: Option<u32>,
    /// The former name of --max-batch-size.
    #[arg(long, env = "VSTAR_ROW_BUDGET", hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub row_budget: Option<u32>,
    /// Fraction of the device's time that a running training gets while samples wait, 0 to 0.95.
    #[arg(long, env = "VSTAR_TRAINING_SHARE", value_parser = parse_share, default_value_t = 0.5)]
    pub training_share: f64,
    /// Host memory for recently used deltas, in MiB. An API and a worker in one process share it.
    #[arg(long, env = "VSTAR_DELTA_CACHE_MIB", default_value_t = 1024)]
    pub delta_cache_mib: usize,
    /// Memory for the keys and values of recently used prompts, in MiB.
    #[arg(long, env = "VSTAR_CONDITIONING_CACHE_MIB", default_value_t = 256)]
    pub conditioning_cache_mib: usize,
    /// Memory that a training step may take in addition to the model's weights, such as 4GB. Above it, layers of the
    /// UNet are recomputed in the backward pass instead of kept. Defaults to no limit on the CPU and to half of the
    /// free memory on a GPU. With 0, freed memory is also returned to the system at once.
    #[arg(long, env = "VSTAR_MEMORY_BUDGET", value_name = "SIZE")]
    pub memory_budget: Option<ByteSize>,
    /// Training steps between two checkpoints, from which another worker goes on if this one is lost. By default,
    /// checkpoints are taken as often as they cost at most 2 % of the training's time, and at most once a second.
    #[arg(long, env = "VSTAR_CHECKPOINT_EVERY", value_name = "STEPS", value_parser = clap::value_parser!(u32).range(1..))]
    pub checkpoint_every: Option<u32>,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            max_batch_size: None,
            row_budget: None,
            training_share: 0.5,
            delta_cache_mib: 1024,
            conditioning_cache_mib: 256,
            memory_budget: None,
            checkpoint_every: None,
        }
    }
}

impl WorkerSettings {
    /// The largest batch under either name; the current one wins.
    pub fn max_batch_size(&self) -> Option<u32> {
        self.max_batch_size.or(self.row_budget)
    }
}

/// A number of bytes, written as such or with a unit: `800MB`, `4GB`, `4GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "mb" => 1e6,
            "mib" => f64::from(1 << 20),
            "gb" => 1e9,
            "gib" => f64::from(1 << 30),
            _ => return Err(format!("`{text}` is not a size: write bytes, or 800MB, 4GB, 4GiB")),
        };
        match number.parse::<f64>() {
            Ok(number) => Ok(Self((number * unit) as u64)),
            Err(_) => Err(format!("`{text}` does not begin with a number")),
        }
    }
}

/// Connections that an HTTP server takes at a time.
pub const DEFAULT_MAX_CONNECTIONS: usize = 1000;

/// Longer than load balancers keep an idle connection by default, which is a minute.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Settings of the HTTP server.
#[derive(Clone, Debug, Args)]
pub struct ServeSettings {
    #[command(flatten)]
    pub common: Settings,
    /// Address to listen on.
    #[arg(long, env = "VSTAR_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The number of jobs of each kind that may be queued. Above it, requests get 503 with Retry-After.
    #[arg(long, env = "VSTAR_QUEUE_LIMIT", default_value_t = DEFAULT_QUEUE_LIMIT)]
    pub queue_limit: usize,
    /// The number of queued jobs of one kind above which /readyz answers 503, so that a load balancer asks another process. There
    /// is no such number if this is not set.
    #[arg(long, env = "VSTAR_READY_QUEUE_DEPTH", value_name = "JOBS")]
    pub ready_queue_depth: Option<usize>,
    /// Connections at a time. A further one is answered 503.
    #[arg(long, env = "VSTAR_MAX_CONNECTIONS", default_value_t = DEFAULT_MAX_CONNECTIONS, value_parser = parse_connections)]
    pub max_connections: usize,
    /// Seconds that a connection may be idle between two requests, and that the head of a request may take. Set it above
    /// the idle timeout of a load balancer in front, so that it is never this side that closes first.
    #[arg(long, env = "VSTAR_IDLE_TIMEOUT", value_name = "SECONDS", value_parser = parse_idle, default_value = "75")]
    pub idle_timeout: Duration,
    /// Where clients reach the service, such as `https://images.example`: webhooks give addresses below it. They give paths
    /// alone if this is not set.
    #[arg(long, env = "VSTAR_PUBLIC_URL", value_name = "URL", value_parser = parse_public_url)]
    pub public_url: Option<String>,
    /// Let webhooks be sent to private addresses, any port, and by http: for tests, and where every user may reach the
    /// private network.
    #[arg(long, env = "VSTAR_ALLOW_PRIVATE_WEBHOOKS")]
    pub allow_private_webhooks: bool,
    #[command(flatten)]
    pub access: AccessSettings,
    /// Serve only. `vstar work` runs the jobs.
    #[arg(long, env = "VSTAR_NO_WORKER")]
    pub no_worker: bool,
}

impl ServeSettings {
    /// Which receivers webhooks may be sent to.
    pub fn receivers(&self) -> Receivers {
        match self.allow_private_webhooks {
            true => Receivers::Any,
            false => Receivers::Public,
        }
    }
}

impl Settings {
    /// The base model's folder: the given one, or `models/tiny` below the current folder, beside the program, or in
    /// the folder that the program was built in.
    ///
    /// # Errors
    /// A sentence that says what was looked for.
    pub fn base_model_dir(&self) -> Result<PathBuf, String> {
        if let Some(dir) = &self.base_model {
            return match dir.join("unet").is_dir() {
                true => Ok(dir.clone()),
                false => Err(format!(
                    "--base-model {}: there is no folder unet/ in it: give a folder in the diffusers layout",
                    dir.display()
                )),
            };
        }
        bundled("models/tiny")
            .ok_or_else(|| "no base model: give its folder with --base-model".to_owned())
    }

    /// The evaluator's folder: the given one, or `clip` beside the base model's; `None` if there is none.
    ///
    /// # Errors
    /// A sentence that says what was looked for.
    pub fn evaluator_dir(&self) -> Result<Option<PathBuf>, String> {
        if let Some(dir) = &self.evaluator {
            return match dir.is_dir() {
                true => Ok(Some(dir.clone())),
                false => Err(format!("--evaluator {}: there is no such folder", dir.display())),
            };
        }
        let base_model = self.base_model_dir()?;
        // Canonical, because `.` has no parent by name.
        let base_model = base_model.canonicalize().unwrap_or(base_model);
        let beside = base_model.parent().map(|parent| parent.join("clip"));
        Ok(beside.filter(|dir| dir.join("config.json").is_file()))
    }
}

fn parse_public_url(text: &str) -> Result<String, String> {
    let is_plain = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme))
        && !text.contains(['?', '#', ' ']);
    match is_plain {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(format!("`{text}` is not a URL like https://images.example")),
    }
}

fn parse_connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=1_000_000).contains(&count) => Ok(count),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a number from 1 to 1000000")),
    }
}

fn parse_idle(text: &str) -> Result<Duration, String> {
    match parse_seconds(text)? {
        idle if idle >= Duration::from_secs(1) => Ok(idle),
        _ => Err(format!("`{text}` is less than a second")),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a number of seconds from 0 to 3600")),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=0.95).contains(&share) => Ok(share),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a number from 0 to 0.95")),
    }
}

/// A file or folder of the repository, wherever the program is run from.
pub fn bundled(path: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).map(|dir| dir.join(path));
    let candidates =
        [Some(PathBuf::from(path)), beside, Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))];
    candidates.into_iter().flatten().find(|candidate| candidate.exists())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        worker: WorkerSettings,
    }

    #[test]
    fn the_former_name_of_the_largest_batch_is_still_accepted() {
        let parse = |args: &[&str]| {
            let args = ["vstar"].iter().chain(args);
            Cli::try_parse_from(args).unwrap().worker.max_batch_size()
        };
        assert_eq!(parse(&["--row-budget", "4"]), Some(4));
        assert_eq!(parse(&["--row-budget", "4", "--max-batch-size", "8"]), Some(8));
    }

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        let bytes = |text: &str| text.parse::<ByteSize>().map(|size| size.0);
        assert_eq!(bytes("1024"), Ok(1024));
        assert_eq!(bytes("1.5GB"), Ok(1_500_000_000));
        assert_eq!(bytes("2 GiB"), Ok(2 << 30));
        assert_eq!(bytes("800mb"), Ok(800_000_000));
        assert!(bytes("lots").is_err() && bytes("4 TB").is_err());
    }
}
