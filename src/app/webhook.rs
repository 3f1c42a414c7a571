//! Webhooks: where a project is told of events.

mod delivery;

use std::time::Duration;

use super::removal::Removed;
use super::{App, Caller, Precondition, Refusal};
use crate::db;
use crate::db::webhook_endpoint::EndpointSettings;
use crate::domain::code::Code;
use crate::domain::id::WebhookEndpointId;
use crate::domain::invalid::{Checks, FieldError};
use crate::domain::labelled::Labelled;
use crate::domain::page::{Page, PageOf};
use crate::domain::record::{Labels, LabelsPatch};
use crate::domain::webhook::secret::WebhookSecret;
use crate::domain::webhook::url::{Receivers, check};
use crate::domain::webhook::{
    EventType, MAX_DESCRIPTION_CHARS, MAX_ENDPOINTS, ROTATION, WebhookEndpoint,
};

/// The longest that a receiver's name is resolved for when it is registered.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

/// An endpoint to create.
#[derive(Clone, Debug)]
pub struct NewEndpoint {
    pub url: String,
    pub description: Option<String>,
    /// `None`: events of all types.
    pub event_types: Option<Vec<EventType>>,
    pub enabled: bool,
    /// One is made if this is `None`.
    pub secret: Option<WebhookSecret>,
    pub labels: Labels,
}

/// What to change of an endpoint; `None` keeps what there is.
#[derive(Clone, Debug, Default)]
pub struct EndpointChange {
    pub url: Option<String>,
    pub description: Option<Option<String>>,
    pub event_types: Option<Option<Vec<EventType>>>,
    pub enabled: Option<bool>,
    pub labels: LabelsPatch,
}

impl App {
    /// Sets which receivers webhooks may be sent to.
    pub fn with_receivers(self, receivers: Receivers) -> Self {
        self.with(|parts| parts.receivers = receivers)
    }

    /// Creates an endpoint.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if its URL is not one that webhooks are sent to; [`Refusal::Conflict`] if the project has as many
    /// as it may, or another one has its external id.
    pub async fn create_webhook_endpoint(
        &self,
        caller: &Caller,
        new: NewEndpoint,
    ) -> Result<WebhookEndpoint, Refusal> {
        self.check_receiver(&new.url).await?;
        check_words(new.description.as_deref(), new.event_types.as_deref())?;
        let mut tx = self.db.begin().await?;
        let count = db::webhook_endpoint::lock_count(&mut tx, caller.project_id()).await?;
        if usize::try_from(count).unwrap_or(0) >= MAX_ENDPOINTS {
            let detail = format!(
                "the project has {MAX_ENDPOINTS} webhook endpoints, the most there can be: delete one"
            );
            return Err(Refusal::Conflict(FieldError::new(
                "",
                Code::TooManyWebhookEndpoints,
                detail,
            )));
        }
        let settings = EndpointSettings {
            url: &new.url,
            description: new.description.as_deref(),
            event_types: new.event_types.as_deref(),
            enabled: new.enabled,
        };
        let secret = new.secret.unwrap_or_else(WebhookSecret::generate);
        let (project, id) = (caller.project_id(), WebhookEndpointId::generate());
        let labels = &new.labels;
        match db::webhook_endpoint::create(&mut *tx, project, id, &settings, &secret, labels).await
        {
            Ok(endpoint) => {
                self.claim_key(&mut tx, id).await?;
                tx.commit().await?;
                Ok(endpoint)
            }
            Err(error) => {
                drop(tx); // what it locks is looked for
                let like = Labelled::WebhookEndpoint(id);
                Err(self.refuse_taken_id(caller, like, labels, error).await)
            }
        }
    }

    /// Returns an endpoint.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]
    pub async fn webhook_endpoint(
        &self,
        caller: &Caller,
        id: WebhookEndpointId,
    ) -> Result<WebhookEndpoint, Refusal> {
        let found = db::webhook_endpoint::find(&self.db, caller.project_id(), id).await?;
        found.ok_or_else(|| no_endpoint(id))
    }

    /// Lists endpoints, newest first.
    pub async fn webhook_endpoints(
        &self,
        caller: &Caller,
        page: Page,
    ) -> Result<PageOf<WebhookEndpoint>, Refusal> {
        let project = caller.project_id();
        Ok(page.cut(db::webhook_endpoint::list(&self.db, project, page.with_one_more()).await?))
    }

    /// Changes an endpoint. Disabling it ends what is still to be sent to it.
    ///
    /// # Errors
    /// As for [`App::create_webhook_endpoint`]; [`Refusal::NotFound`]; [`Refusal::PreconditionFailed`].
    pub async fn change_webhook_endpoint(
        &self,
        caller: &Caller,
        id: WebhookEndpointId,
        precondition: &Precondition,
        change: EndpointChange,
    ) -> Result<WebhookEndpoint, Refusal> {
        // What does not exist is told first, so that a URL is not resolved for nothing.
        self.webhook_endpoint(caller, id).await?;
        if let Some(url) = &change.url {
            self.check_receiver(url).await?;
        }
        let mut tx = self.db.begin().await?;
        let found = db::webhook_endpoint::lock(&mut *tx, caller.project_id(), id).await?;
        let before = found.ok_or_else(|| no_endpoint(id))?;
        let object = Labelled::WebhookEndpoint(id);
        self.relabel_in(&mut tx, caller, object, change.labels, precondition).await?;
        let url = change.url.unwrap_or(before.url);
        let description = change.description.unwrap_or(before.description);
        let event_types = change.event_types.unwrap_or(before.event_types);
        check_words(description.as_deref(), event_types.as_deref())?;
        let settings = EndpointSettings {
            url: &url,
            description: description.as_deref(),
            event_types: event_types.as_deref(),
            enabled: change.enabled.unwrap_or(before.enabled),
        };
        let after =
            db::webhook_endpoint::update(&mut *tx, caller.project_id(), id, &settings).await?;
        if before.enabled && !after.enabled {
            let reason = "the endpoint was disabled by a request";
            db::webhook_delivery::cancel_pending(&mut *tx, id, reason).await?;
        }
        tx.commit().await?;
        Ok(after)
    }

    /// Gives an endpoint a new secret. For a day, deliveries are signed with both.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]
    pub async fn rotate_webhook_secret(
        &self,
        caller: &Caller,
        id: WebhookEndpointId,
    ) -> Result<WebhookEndpoint, Refusal> {
        let (project, secret) = (caller.project_id(), WebhookSecret::generate());
        let found = db::webhook_endpoint::rotate(&self.db, project, id, &secret, ROTATION).await?;
        found.ok_or_else(|| no_endpoint(id))
    }

    /// Deletes an endpoint, its log, and what is still to be sent to it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::PreconditionFailed`].
    pub async fn delete_webhook_endpoint(
        &self,
        caller: &Caller,
        id: WebhookEndpointId,
        precondition: &Precondition,
    ) -> Result<Removed, Refusal> {
        let mut tx = self.db.begin().await?;
        let found = db::webhook_endpoint::lock(&mut *tx, caller.project_id(), id).await?;
        precondition.check(found.ok_or_else(|| no_endpoint(id))?.record.revision)?;
        let webhook_deliveries =
            db::webhook_endpoint::delete(&mut *tx, caller.project_id(), id).await?;
        tx.commit().await?;
        Ok(Removed { webhook_endpoints: 1, webhook_deliveries, ..Removed::default() })
    }

    /// Refuses a URL that nothing is sent to: by what stands in it, and by what its name means now. It is looked at again at each
    /// delivery, when the name may mean something else.
    async fn check_receiver(&self, url: &str) -> Result<(), Refusal> {
        let refused = |detail: String| FieldError::new("/url", Code::WebhookUrlRefused, detail);
        let parsed = check(url, self.receivers).map_err(refused)?;
        let Some(host) = parsed.domain() else { return Ok(()) };
        let resolved = tokio::net::lookup_host((host, 443));
        // A name that means nothing yet is taken: its receiver may be set up later.
        let Ok(Ok(addresses)) = tokio::time::timeout(RESOLVE_LIMIT, resolved).await else {
            return Ok(());
        };
        let mut refused_address = None;
        for address in addresses {
            if self.receivers.allow(address.ip()) {
                return Ok(());
            }
            refused_address = Some(address.ip());
        }
        match refused_address {
            None => Ok(()),
            Some(_) => Err(refused(format!(
                "{host} has no public address: use a host that can be reached from the internet"
            ))
            .into()),
        }
    }
}

fn check_words(
    description: Option<&str>,
    event_types: Option<&[EventType]>,
) -> Result<(), Refusal> {
    let mut checks = Checks::default();
    let count = description.map_or(0, |text| text.chars().count());
    checks.require(count <= MAX_DESCRIPTION_CHARS, "/description", Code::OutOfRange, || {
        format!("the description has {count} characters: at most {MAX_DESCRIPTION_CHARS} are kept")
    });
    let is_empty = event_types.is_some_and(<[_]>::is_empty);
    checks.require(!is_empty, "/event_types", Code::OutOfRange, || {
        "an endpoint without event types is told nothing: name some, or leave the field out for all".to_owned()
    });
    let twice = event_types.is_some_and(|types| types.len() > EventType::ALL.len());
    checks.require(!twice, "/event_types", Code::OutOfRange, || {
        format!("there are {} types of events: name each once", EventType::ALL.len())
    });
    Ok(checks.finish()?)
}

fn no_endpoint(id: WebhookEndpointId) -> Refusal {
    Refusal::not_found("webhook endpoint", id)
}
