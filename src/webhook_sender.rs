//! Sends webhooks: takes what is due from the outbox, asks the receivers, and records what they answer.
//!
//! It runs beside the API, in every process that serves. Nothing waits for it: events are rows of the outbox, written with
//! what they tell of. A receiver that is slow or gone delays its own deliveries alone.

mod receiver;
mod resolver;

use std::time::Duration;

use chrono::Utc;
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::counters::WEBHOOKS;
use crate::db;
use crate::db::webhook_outbox::{LeasedDelivery, Next, Share};
use crate::domain::webhook::delivery::WebhookAttempt;
use crate::domain::webhook::url::Receivers;
use crate::domain::webhook::{FAILING_LIMIT, delay_after};
use crate::shutdown::Shutdown;

use self::receiver::{Answer, Receiver};

/// How often it looks for deliveries that are due.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a delivery stays with a process that has died. Longer than [`receiver::LIMIT`].
const LEASE: Duration = Duration::from_secs(60);
/// Requests of this process at a time.
const MOST_AT_ONCE: usize = 128;
/// Requests to one endpoint at a time.
const PER_ENDPOINT: i64 = 4;
/// How long requests that are on their way may still take when the process closes.
const CLOSING_LIMIT: Duration = Duration::from_secs(2);

/// What a sender has to be told.
#[derive(Clone, Debug, Default)]
pub struct SenderOptions {
    pub receivers: Receivers,
    /// Where clients reach this service, such as `https://images.example`; empty if that is not known.
    pub public_url: String,
}

/// Sends the webhooks that are due.
#[derive(Clone, Debug)]
pub struct Sender {
    db: PgPool,
    receiver: Receiver,
    public_url: String,
}

impl Sender {
    /// # Errors
    /// If the system's certificates cannot be read.
    pub fn new(db: PgPool, options: SenderOptions) -> Result<Self, reqwest::Error> {
        let receiver = Receiver::new(options.receivers)?;
        let public_url = options.public_url.trim_end_matches('/').to_owned();
        Ok(Self { db, receiver, public_url })
    }

    /// Sends until the process ends. What is on its way then may arrive, or is sent again by another process.
    pub async fn run(self, shutdown: Shutdown) {
        let mut running = JoinSet::new();
        while !shutdown.is_draining() {
            while running.try_join_next().is_some() {}
            match self.lease(MOST_AT_ONCE - running.len()).await {
                Ok(deliveries) => {
                    for delivery in deliveries {
                        running.spawn(self.clone().deliver(delivery, shutdown.clone()));
                    }
                }
                Err(error) => tracing::warn!(%error, "webhooks that are due cannot be looked for"),
            }
            // An endpoint that answers fast gets its next one at once.
            let ended = async {
                match running.is_empty() {
                    true => std::future::pending().await,
                    false => drop(running.join_next().await),
                }
            };
            tokio::select! {
                () = ended => {}
                () = tokio::time::sleep(INTERVAL) => {}
                () = shutdown.draining() => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    async fn lease(&self, most: usize) -> sqlx::Result<Vec<LeasedDelivery>> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        db::webhook_outbox::lease(&self.db, Share { most, per_endpoint: PER_ENDPOINT }, LEASE).await
    }

    /// Sends one delivery and records what has become of it.
    async fn deliver(self, delivery: LeasedDelivery, shutdown: Shutdown) {
        let began = std::time::Instant::now();
        let started_at = Utc::now();
        let body = delivery.event.body(&self.public_url);
        let closed = async {
            shutdown.closing().await;
            tokio::time::sleep(CLOSING_LIMIT).await;
        };
        let answer = tokio::select! {
            answer = self.receiver.send(&delivery, started_at.timestamp(), body) => answer,
            () = closed => {
                // The lease of a process that cannot say so ends by itself.
                let _ = db::webhook_outbox::give_back(&self.db, &delivery).await;
                return;
            }
        };
        WEBHOOKS.attempts.observe(began.elapsed());
        if answer.error.is_none() { &WEBHOOKS.delivered } else { &WEBHOOKS.failed }.count();
        let attempt = WebhookAttempt {
            attempt: delivery.attempt,
            started_at,
            duration_ms: i32::try_from(began.elapsed().as_millis()).unwrap_or(i32::MAX),
            status_code: answer.status.map(i32::from),
            error: answer.error.clone(),
            answer: answer.excerpt.clone(),
        };
        tracing::debug!(
            endpoint = %delivery.endpoint_id,
            delivery = %delivery.delivery_id,
            event = delivery.event.event_type,
            attempt = attempt.attempt,
            status = attempt.status_code,
            error = attempt.error,
            milliseconds = attempt.duration_ms,
            "webhook"
        );
        if let Err(error) = self.record(&delivery, &attempt, &answer).await {
            tracing::warn!(%error, delivery = %delivery.delivery_id, "the attempt of a webhook is not recorded");
        }
    }

    async fn record(
        &self,
        delivery: &LeasedDelivery,
        attempt: &WebhookAttempt,
        answer: &Answer,
    ) -> sqlx::Result<()> {
        let next = match (&answer.error, usize::try_from(delivery.tries).ok()) {
            (None, _) => Next::Succeeded,
            (Some(_), Some(tries)) => match delay_after(tries, chance()) {
                Some(delay) => Next::Retry(delay),
                None => Next::Failed("every attempt has failed"),
            },
            (Some(_), None) => Next::Failed("every attempt has failed"),
        };
        let counted = db::webhook_outbox::conclude(&self.db, delivery, attempt, next).await?;
        if !counted {
            return Ok(()); // the endpoint is gone or disabled, or another process has the delivery by now
        }
        if answer.error.is_none() {
            return db::webhook_outbox::note_success(&self.db, delivery.endpoint_id).await;
        }
        let failing_since =
            db::webhook_outbox::note_failure(&self.db, delivery.endpoint_id).await?;
        let failing_for = failing_since.and_then(|since| (Utc::now() - since).to_std().ok());
        if answer.is_gone() {
            self.disable(delivery, "the receiver answered 410 Gone").await?;
        } else if failing_for.is_some_and(|failing_for| failing_for >= FAILING_LIMIT) {
            self.disable(delivery, "every delivery of the last five days has failed").await?;
        }
        Ok(())
    }

    async fn disable(&self, delivery: &LeasedDelivery, reason: &str) -> sqlx::Result<()> {
        let endpoint = delivery.endpoint_id;
        let mut tx = self.db.begin().await?;
        if db::webhook_outbox::disable(&mut *tx, endpoint, reason).await? {
            WEBHOOKS.endpoints_disabled.count();
            tracing::warn!(%endpoint, project = %delivery.event.project_id, reason, "a webhook endpoint is disabled");
            let reason = format!("the endpoint was disabled: {reason}");
            db::webhook_delivery::cancel_pending(&mut *tx, endpoint, &reason).await?;
        }
        tx.commit().await
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    uuid::Uuid::new_v4().as_u64_pair().1 as u32 as f64 / f64::from(u32::MAX)
}
