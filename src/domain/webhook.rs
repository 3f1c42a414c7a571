//! Webhooks: how a project is told of what happens, by the Standard Webhooks specification.

pub mod address;
pub mod delivery;
pub mod secret;
pub mod url;

use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::{DateTime, Utc};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use self::secret::WebhookSecret;
use super::id::{ProjectId, WebhookEndpointId};
use super::record::Record;

/// The most endpoints of a project.
pub const MAX_ENDPOINTS: usize = 20;
/// The most characters of a description.
pub const MAX_DESCRIPTION_CHARS: usize = 500;
/// How long the previous secret still signs after a rotation.
pub const ROTATION: Duration = Duration::from_secs(24 * 3600);
/// How long an endpoint may fail before it is disabled.
pub const FAILING_LIMIT: Duration = Duration::from_secs(5 * 24 * 3600);

/// The delay before each attempt of a delivery, counted from the attempt before. After the last one, it is given up.
const DELAYS_SECS: [u64; 10] = [0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// What each delay is multiplied with, so that what failed together is not sent again together.
const JITTER: RangeInclusive<f64> = 0.9..=1.1;

/// The delay before the attempt after `tries` of them; `None` if there is none.
///
/// - `random`: from 0 to 1
pub fn delay_after(tries: usize, random: f64) -> Option<Duration> {
    let seconds = *DELAYS_SECS.get(tries)? as f64;
    let factor = JITTER.start() + (JITTER.end() - JITTER.start()) * random.clamp(0.0, 1.0);
    Some(Duration::from_secs_f64(seconds * factor))
}

macro_rules! event_types {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// What a webhook can tell: a closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum EventType {
            $($(#[doc = $doc])* #[serde(rename = $text)] $name,)*
        }

        impl EventType {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The type as it is published and stored.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

event_types! {
    /// A worker has started the training for the first time.
    TrainingStarted = "training.started",
    TrainingSucceeded = "training.succeeded",
    TrainingFailed = "training.failed",
    TrainingCanceled = "training.canceled",
    /// A worker has started the merge for the first time.
    MergeStarted = "merge.started",
    MergeSucceeded = "merge.succeeded",
    MergeFailed = "merge.failed",
    MergeCanceled = "merge.canceled",
    /// A worker has started the sample for the first time. Samples of evaluations make no events.
    SampleStarted = "sample.started",
    SampleSucceeded = "sample.succeeded",
    SampleFailed = "sample.failed",
    SampleCanceled = "sample.canceled",
    /// A worker has begun to score the evaluation.
    EvaluationStarted = "evaluation.started",
    EvaluationSucceeded = "evaluation.succeeded",
    EvaluationFailed = "evaluation.failed",
    EvaluationCanceled = "evaluation.canceled",
    /// A worker has started the compression for the first time.
    CompressionStarted = "compression.started",
    CompressionSucceeded = "compression.succeeded",
    CompressionFailed = "compression.failed",
    CompressionCanceled = "compression.canceled",
    /// Another delta has become the concept's current one.
    ConceptPromoted = "concept.promoted",
    ConceptDeleted = "concept.deleted",
    /// Somebody asked for a test delivery. Sent to its endpoint whichever types that asks for.
    WebhookTest = "webhook.test",
}

// By hand: a derived one does not see names that a macro gives.
impl PartialSchema for EventType {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Self::ALL.iter().map(|event| event.as_str())))
            .description(Some(
                "What has happened, and to what. `started` is when a worker starts a job for the first time. Samples of evaluations \
                 make no events. `concept.promoted`: another delta has become the concept's current one. `webhook.test`: somebody \
                 asked for a test delivery; it is sent whichever types the endpoint asks for.",
            ))
            .into()
    }
}

impl ToSchema for EventType {
    fn name() -> std::borrow::Cow<'static, str> {
        "EventType".into()
    }
}

/// Where a project is told of events.
#[derive(Clone, Debug)]
pub struct WebhookEndpoint {
    pub endpoint_id: WebhookEndpointId,
    pub project_id: ProjectId,
    pub url: String,
    pub description: Option<String>,
    /// `None`: events of all types.
    pub event_types: Option<Vec<EventType>>,
    pub enabled: bool,
    /// Why the service disabled it.
    pub disabled_reason: Option<String>,
    pub secret: WebhookSecret,
    /// Until when the secret before this one still signs.
    pub previous_secret_until: Option<DateTime<Utc>>,
    /// The first failure since the last success.
    pub failing_since: Option<DateTime<Utc>>,
    /// Its revision, and what its owner has attached to it.
    pub record: Record,
    pub created_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::JobKind;

    #[test]
    fn retries_go_on_for_days_and_end() {
        let delays: Vec<f64> = (0..)
            .map_while(|tries| delay_after(tries, 0.5))
            .map(|delay| delay.as_secs_f64())
            .collect();

        assert_eq!(delays.len(), 10);
        assert_eq!((delays[0], delays[1], delays[9]), (0.0, 5.0, 86_400.0));
        let days = delays.iter().sum::<f64>() / 86_400.0;
        assert!((3.0..5.0).contains(&days), "{days}");
        assert!(delay_after(1, 0.0) < delay_after(1, 1.0));
    }

    #[test]
    fn every_kind_of_job_has_its_events() {
        for kind in JobKind::ALL {
            for happened in ["started", "succeeded", "failed", "canceled"] {
                let name = format!("{}.{happened}", kind.as_str());
                assert!(EventType::ALL.iter().any(|event| event.as_str() == name), "{name}");
            }
        }
    }

    #[test]
    fn a_type_is_stored_as_it_is_published() {
        for event in EventType::ALL {
            assert_eq!(serde_json::to_value(event).unwrap(), event.as_str());
        }
    }
}
