//! A delivery: one event on its way to one endpoint.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::id::{ConceptId, JobId, ProjectId, WebhookDeliveryId, WebhookEndpointId};
use crate::domain::job::{JobKind, published_id};

/// Where a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// It will be sent, for the first time or again.
    Pending,
    /// The receiver has answered 2xx.
    Succeeded,
    /// Every attempt has failed.
    Failed,
    /// Its endpoint was disabled before it succeeded.
    Canceled,
}

impl DeliveryStatus {
    /// The status as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

/// What happened, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookEvent {
    pub event_type: String,
    /// `training`, `concept`, …
    pub object: String,
    pub object_id: Uuid,
    /// The status of the object after the event.
    pub status: Option<String>,
    /// The revision of the object after the event.
    pub revision: Option<i64>,
    pub external_id: Option<String>,
    pub project_id: ProjectId,
    pub occurred_at: DateTime<Utc>,
}

impl WebhookEvent {
    /// The published id of what the event is about.
    pub fn published_object_id(&self) -> String {
        let kind = JobKind::ALL.into_iter().find(|kind| kind.as_str() == self.object);
        match (kind, self.object.as_str()) {
            (Some(kind), _) => published_id(JobId(self.object_id), kind),
            (None, "concept") => ConceptId(self.object_id).to_string(),
            (None, _) => WebhookEndpointId(self.object_id).to_string(),
        }
    }

    /// The path of what the event is about.
    fn path(&self) -> String {
        let collection = match self.object.as_str() {
            "webhook_endpoint" => "webhook-endpoints".to_owned(),
            noun => format!("{noun}s"),
        };
        format!("/v1/{collection}/{}", self.published_object_id())
    }

    /// The body that is sent: ids and numbers only, below 4 kB. It is the same at every attempt.
    ///
    /// - `public_url`: where clients reach this service, without a slash at its end; empty if that is not known
    pub fn body(&self, public_url: &str) -> Vec<u8> {
        let body = json!({
            "type": self.event_type,
            "timestamp": self.occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            "data": {
                "id": self.published_object_id(),
                "object": self.object,
                "status": self.status,
                "revision": self.revision,
                "project_id": self.project_id,
                "external_id": self.external_id,
                "url": format!("{public_url}{}", self.path()),
            },
        });
        body.to_string().into_bytes()
    }
}

/// One event on its way to one endpoint.
#[derive(Clone, Debug)]
pub struct WebhookDelivery {
    pub delivery_id: WebhookDeliveryId,
    pub endpoint_id: WebhookEndpointId,
    pub event: WebhookEvent,
    pub status: DeliveryStatus,
    /// Why it was given up.
    pub reason: Option<String>,
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// The attempts so far, in order.
    pub attempts: Vec<WebhookAttempt>,
}

/// One request to an endpoint and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookAttempt {
    /// Counted from 1.
    pub attempt: i32,
    pub started_at: DateTime<Utc>,
    pub duration_ms: i32,
    /// The status of the answer; `None` if there was none.
    pub status_code: Option<i32>,
    /// Why it does not count as delivered; `None` if it does.
    pub error: Option<String>,
    /// The beginning of the answer's body.
    pub answer: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(object: &str) -> WebhookEvent {
        WebhookEvent {
            event_type: format!("{object}.succeeded"),
            object: object.to_owned(),
            object_id: Uuid::nil(),
            status: Some("succeeded".to_owned()),
            revision: Some(37),
            external_id: Some("é".repeat(255)),
            project_id: ProjectId::DEFAULT,
            occurred_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_body_is_thin_and_says_where_to_look() {
        let body = event("training").body("https://images.example");

        assert!(body.len() < 4096);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["timestamp"], "1970-01-01T00:00:00.000Z");
        assert_eq!(body["data"]["id"], "trn_00000000000000000000000000");
        let url = "https://images.example/v1/trainings/trn_00000000000000000000000000";
        assert_eq!(body["data"]["url"], url);
        assert_eq!(body["data"]["project_id"], ProjectId::DEFAULT.to_string());
    }

    #[test]
    fn objects_have_their_own_ids_and_paths() {
        assert_eq!(event("concept").path(), "/v1/concepts/cpt_00000000000000000000000000");
        let endpoint = event("webhook_endpoint").path();
        assert_eq!(endpoint, "/v1/webhook-endpoints/whe_00000000000000000000000000");
    }
}
