//! Metrics in the text format of Prometheus.
//!
//! What this process counts comes from [`counters`](crate::counters). The queue is the same for all processes and comes from
//! the database, at most every few seconds. Every label that can be shown is always shown, with 0 where there is nothing; what
//! cannot be read is left out, so that an old figure never passes for a new one.

mod text;

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::counters::{CACHES, QUEUE, REQUESTS, WEBHOOKS, WORK};
use crate::db;
use crate::db::job::Load;
use crate::domain::job::JobKind;

use self::text::{Kind, Text};

/// How old figures of the database may be.
const KEPT: Duration = Duration::from_secs(5);
/// How long the database may take to give them.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Metrics of this process and of the queue. A clone shares what was read.
#[derive(Clone, Debug)]
pub struct Metrics {
    db: PgPool,
    read: Arc<Mutex<Option<Read>>>,
}

/// When the database was asked, and what it knew; `None` if it did not answer.
type Read = (Instant, Option<Queue>);

/// What the database knows.
#[derive(Clone, Debug)]
pub struct Queue {
    /// One of each kind that has jobs.
    loads: Vec<Load>,
    webhooks_pending: i64,
    webhooks_due_seconds: f64,
}

impl Queue {
    /// The kind that most jobs wait of, and how many do.
    pub fn deepest(&self) -> Option<(JobKind, i64)> {
        self.loads.iter().map(|load| (load.kind, load.queued)).max_by_key(|(_, queued)| *queued)
    }
}

impl Metrics {
    pub fn new(db: PgPool) -> Self {
        Self { db, read: Arc::default() }
    }

    /// What the database knows, at most some seconds old; `None` if it does not answer.
    pub async fn queue(&self) -> Option<Queue> {
        let mut read = self.read.lock().await;
        if let Some((at, queue)) = &*read
            && at.elapsed() < KEPT
        {
            return queue.clone();
        }
        let found = tokio::time::timeout(READ_LIMIT, self.read_queue()).await;
        let queue = match found {
            Ok(Ok(queue)) => Some(queue),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the queue cannot be measured");
                None
            }
            Err(_) => None,
        };
        *read = Some((Instant::now(), queue.clone()));
        queue
    }

    async fn read_queue(&self) -> sqlx::Result<Queue> {
        let loads = db::job::loads(&self.db).await?;
        let (webhooks_pending, due_since) = db::webhook_outbox::backlog(&self.db).await?;
        let due = due_since.map_or(0.0, |since| (Utc::now() - since).as_seconds_f64().max(0.0));
        Ok(Queue { loads, webhooks_pending, webhooks_due_seconds: due })
    }

    /// All metrics, as the text that Prometheus reads.
    pub async fn render(&self) -> String {
        let mut text = Text::default();
        self.render_queue(&mut text).await;
        render_work(&mut text);
        render_requests(&mut text);
        text.finish()
    }

    async fn render_queue(&self, text: &mut Text) {
        let queue = self.queue().await;
        text.family(
            "vstar_database_up",
            Kind::Gauge,
            "Whether the queue could be read: without it, its figures are missing.",
        );
        text.sample("vstar_database_up", &[], f64::from(u8::from(queue.is_some())));
        if let Some(queue) = queue {
            render_loads(text, &queue);
        }
        let counters = [
            (
                "vstar_lease_expiries_total",
                "Jobs that this process took back from workers that stopped answering.",
                &QUEUE.jobs_taken_back,
            ),
            (
                "vstar_leases_lost_total",
                "Jobs that this process dropped because its lease had been taken away.",
                &QUEUE.leases_lost,
            ),
            (
                "vstar_fenced_writes_total",
                "Ends of jobs that the fence kept out.",
                &QUEUE.writes_fenced_off,
            ),
            (
                "vstar_deadlines_missed_total",
                "Jobs that this process ended because they missed a deadline.",
                &QUEUE.deadlines_missed,
            ),
        ];
        for (name, help, counter) in counters {
            text.counter(name, help, counter);
        }
    }
}

fn render_loads(text: &mut Text, queue: &Queue) {
    let of = |kind: JobKind| queue.loads.iter().find(|load| load.kind == kind);
    let mut by_kind = |name: &str, help: &str, figure: &dyn Fn(&Load) -> f64| {
        text.family(name, Kind::Gauge, help);
        for kind in JobKind::ALL {
            text.sample(name, &[("kind", kind.as_str())], of(kind).map_or(0.0, figure));
        }
    };
    by_kind("vstar_queue_depth", "Jobs that wait.", &|load| load.queued as f64);
    by_kind(
        "vstar_queue_oldest_age_seconds",
        "How long the oldest waiting job has waited.",
        &|load| load.oldest_seconds,
    );
    by_kind("vstar_jobs_running", "Jobs that workers have now.", &|load| load.running as f64);
    text.family(
        "vstar_webhooks_pending",
        Kind::Gauge,
        "Webhook deliveries that are still to be sent.",
    );
    text.sample("vstar_webhooks_pending", &[], queue.webhooks_pending as f64);
    text.family(
        "vstar_webhooks_oldest_due_seconds",
        Kind::Gauge,
        "How long the oldest webhook delivery that is due has been so.",
    );
    text.sample("vstar_webhooks_oldest_due_seconds", &[], queue.webhooks_due_seconds);
}

fn render_work(text: &mut Text) {
    text.histogram("vstar_claim_seconds", "How long it took to claim jobs.", &WORK.claims);
    text.histogram(
        "vstar_queue_wait_seconds",
        "From the request for a job to its first start.",
        &WORK.waits,
    );
    text.histogram("vstar_training_step_seconds", "Optimizer steps.", &WORK.training_steps);
    text.histogram(
        "vstar_denoising_step_seconds",
        "Steps of the running batch.",
        &WORK.denoising_steps,
    );
    text.counter(
        "vstar_denoised_elements_total",
        "Elements that took a step of the running batch: divided by the number of steps, its fill.",
        &WORK.denoised_elements,
    );
    text.family("vstar_batch_max_elements", Kind::Gauge, "The largest batch; 0 without a worker.");
    text.sample("vstar_batch_max_elements", &[], WORK.max_batch_elements.get() as f64);
    text.family(
        "vstar_attempts_total",
        Kind::Counter,
        "Attempts of jobs that ended in this process.",
    );
    for (end, counter) in [
        ("succeeded", &WORK.jobs_succeeded),
        ("failed", &WORK.jobs_failed),
        ("retried", &WORK.jobs_retried),
        ("stopped", &WORK.jobs_stopped),
    ] {
        text.sample("vstar_attempts_total", &[("end", end)], counter.get() as f64);
    }
    text.family("vstar_cache_lookups_total", Kind::Counter, "Lookups in caches.");
    for cache in CACHES {
        for (result, counter) in [("hit", &cache.hits), ("miss", &cache.misses)] {
            let labels = [("cache", cache.name), ("result", result)];
            text.sample("vstar_cache_lookups_total", &labels, counter.get() as f64);
        }
    }
    text.histogram(
        "vstar_webhook_attempt_seconds",
        "Requests to receivers of webhooks.",
        &WEBHOOKS.attempts,
    );
    text.family(
        "vstar_webhook_attempts_total",
        Kind::Counter,
        "Requests to receivers of webhooks.",
    );
    for (result, counter) in [("delivered", &WEBHOOKS.delivered), ("failed", &WEBHOOKS.failed)] {
        text.sample("vstar_webhook_attempts_total", &[("result", result)], counter.get() as f64);
    }
    text.counter(
        "vstar_webhook_endpoints_disabled_total",
        "Webhook endpoints that were disabled because of their receivers.",
        &WEBHOOKS.endpoints_disabled,
    );
}

fn render_requests(text: &mut Text) {
    let routes = REQUESTS.snapshot();
    text.family("vstar_http_requests_total", Kind::Counter, "Requests that were answered.");
    for counts in &routes {
        for (status, count) in &counts.statuses {
            let status = status.to_string();
            let labels = [("method", counts.method), ("route", &counts.route), ("status", &status)];
            text.sample("vstar_http_requests_total", &labels, *count as f64);
        }
    }
    text.family(
        "vstar_http_request_duration_seconds",
        Kind::Histogram,
        "From the request to the head of its answer.",
    );
    for counts in &routes {
        let labels = [("method", counts.method), ("route", counts.route.as_str())];
        text.buckets("vstar_http_request_duration_seconds", &labels, &counts.durations);
    }
}
