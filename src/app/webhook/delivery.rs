//! The log of what was sent to an endpoint, and sending on request.

use std::collections::HashMap;

use super::super::{App, Caller, Refusal};
use super::no_endpoint;
use crate::db;
use crate::domain::code::Code;
use crate::domain::id::{WebhookDeliveryId, WebhookEndpointId};
use crate::domain::invalid::FieldError;
use crate::domain::page::{Page, PageOf};
use crate::domain::webhook::WebhookEndpoint;
use crate::domain::webhook::delivery::{DeliveryStatus, WebhookAttempt, WebhookDelivery};

impl App {
    /// Queues a test delivery to an endpoint.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Conflict`] if the endpoint is disabled.
    pub async fn test_webhook(
        &self,
        caller: &Caller,
        id: WebhookEndpointId,
    ) -> Result<WebhookDelivery, Refusal> {
        let mut tx = self.db.begin().await?;
        let found = db::webhook_endpoint::lock(&mut *tx, caller.project_id(), id).await?;
        let endpoint = enabled(found.ok_or_else(|| no_endpoint(id))?)?;
        let (project, revision) = (caller.project_id(), endpoint.record.revision);
        let queued = db::webhook_delivery::queue_test(&mut *tx, project, id, revision).await?;
        self.claim_key(&mut tx, queued.delivery_id).await?;
        tx.commit().await?;
        Ok(queued)
    }

    /// Lists the deliveries of an endpoint with their attempts, newest first.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]
    pub async fn webhook_deliveries(
        &self,
        caller: &Caller,
        id: WebhookEndpointId,
        status: Option<DeliveryStatus>,
        page: Page,
    ) -> Result<PageOf<WebhookDelivery>, Refusal> {
        self.webhook_endpoint(caller, id).await?;
        let (project, more) = (caller.project_id(), page.with_one_more());
        let found = db::webhook_delivery::list(&self.db, project, id, status, more).await?;
        let mut page = page.cut(found);
        let ids: Vec<WebhookDeliveryId> =
            page.items.iter().map(|delivery| delivery.delivery_id).collect();
        let attempts = db::webhook_delivery::attempts_of(&self.db, project, &ids).await?;
        let mut by_delivery: HashMap<WebhookDeliveryId, Vec<WebhookAttempt>> = HashMap::new();
        for (delivery_id, attempt) in attempts {
            by_delivery.entry(delivery_id).or_default().push(attempt);
        }
        for delivery in &mut page.items {
            delivery.attempts = by_delivery.remove(&delivery.delivery_id).unwrap_or_default();
        }
        Ok(page)
    }

    /// Returns a delivery with its attempts.
    ///
    /// - `endpoint_id`: the endpoint that it has to be to; `None` for any
    ///
    /// # Errors
    /// [`Refusal::NotFound`]
    pub async fn webhook_delivery(
        &self,
        caller: &Caller,
        endpoint_id: Option<WebhookEndpointId>,
        id: WebhookDeliveryId,
    ) -> Result<WebhookDelivery, Refusal> {
        let project = caller.project_id();
        let found = db::webhook_delivery::find(&self.db, project, endpoint_id, id).await?;
        let mut delivery = found.ok_or_else(|| no_delivery(id))?;
        let attempts = db::webhook_delivery::attempts_of(&self.db, project, &[id]).await?;
        delivery.attempts = attempts.into_iter().map(|(_, attempt)| attempt).collect();
        Ok(delivery)
    }

    /// Sends a delivery again, whatever has become of it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Conflict`] if the endpoint is disabled.
    pub async fn redeliver_webhook(
        &self,
        caller: &Caller,
        endpoint_id: WebhookEndpointId,
        id: WebhookDeliveryId,
    ) -> Result<WebhookDelivery, Refusal> {
        let project = caller.project_id();
        let mut tx = self.db.begin().await?;
        let found = db::webhook_endpoint::lock(&mut *tx, project, endpoint_id).await?;
        let endpoint = found.ok_or_else(|| no_delivery(id))?;
        let found = db::webhook_delivery::find(&mut *tx, project, Some(endpoint_id), id).await?;
        found.ok_or_else(|| no_delivery(id))?;
        enabled(endpoint)?;
        db::webhook_delivery::send_again(&mut *tx, project, endpoint_id, id).await?;
        self.claim_key(&mut tx, id).await?;
        tx.commit().await?;
        self.webhook_delivery(caller, Some(endpoint_id), id).await
    }
}

fn enabled(endpoint: WebhookEndpoint) -> Result<WebhookEndpoint, Refusal> {
    match endpoint.enabled {
        true => Ok(endpoint),
        false => {
            let detail = "the endpoint is disabled: enable it with PATCH first";
            Err(Refusal::Conflict(FieldError::new("", Code::WebhookEndpointDisabled, detail)))
        }
    }
}

fn no_delivery(id: WebhookDeliveryId) -> Refusal {
    Refusal::not_found("webhook delivery", id)
}
