//! Keys of the API.

use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::access::{Pepper, new_key_text};
use super::project::check_name;
use super::removal::Removed;
use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::access::{ApiKey, Scope, Scopes};
use crate::domain::code::Code;
use crate::domain::id::{ApiKeyId, ProjectId};
use crate::domain::invalid::FieldError;
use crate::domain::page::{Page, PageOf};

/// How long the secret before a rotation may stay good, in seconds: at most a week.
pub const OVERLAP_SECONDS: RangeInclusive<u64> = 0..=604_800;
/// How long it does if the request does not say.
pub const DEFAULT_OVERLAP_SECONDS: u64 = 86_400;

/// A key to make.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    pub name: String,
    /// The caller's own if `None`.
    pub project_id: Option<ProjectId>,
    pub scopes: Vec<Scope>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key whose secret is shown this once.
#[derive(Clone, Debug)]
pub struct IssuedKey {
    pub key: ApiKey,
    /// The whole key.
    pub text: String,
}

impl App {
    /// Makes a key. For administrators.
    ///
    /// # Errors
    /// [`Refusal::Invalid`]; [`Refusal::Conflict`] if the service asks for no keys.
    pub async fn create_api_key(
        &self,
        caller: &Caller,
        new: NewApiKey,
    ) -> Result<IssuedKey, Refusal> {
        let pepper = self.pepper()?;
        check_name(&new.name)?;
        if new.scopes.is_empty() {
            let detail = "a key without scopes can do nothing: name some";
            return Err(FieldError::new("/scopes", Code::OutOfRange, detail).into());
        }
        if new.expires_at.is_some_and(|end| end <= Utc::now()) {
            let detail = "the key would have expired already: choose a later time";
            return Err(FieldError::new("/expires_at", Code::OutOfRange, detail).into());
        }
        let project_id = new.project_id.unwrap_or(caller.project_id());
        if db::project::find(&self.db, project_id).await?.is_none() {
            let detail = format!("no project `{project_id}`: create it with POST /v1/projects");
            return Err(FieldError::new("/project", Code::InvalidValue, detail).into());
        }
        let scopes = new.scopes.into_iter().collect();
        let mut tx = self.db.begin().await?;
        let (name, end) = (new.name.trim(), new.expires_at);
        let issued = issue(&mut *tx, pepper, project_id, name, scopes, end).await?;
        self.claim_key(&mut tx, issued.key.key_id).await?;
        tx.commit().await?;
        Ok(issued)
    }

    /// Lists keys, newest first: of one project, or of all. For administrators.
    pub async fn api_keys(
        &self,
        _caller: &Caller,
        project_id: Option<ProjectId>,
        page: Page,
    ) -> Result<PageOf<ApiKey>, Refusal> {
        Ok(page.cut(db::api_key::list(&self.db, project_id, page.with_one_more()).await?))
    }

    /// Returns a key without its secret. For administrators.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]
    pub async fn api_key(&self, _caller: &Caller, id: ApiKeyId) -> Result<ApiKey, Refusal> {
        let found = db::api_key::find(&self.db, id).await?;
        Ok(found.ok_or_else(|| Refusal::not_found("key", id))?.key)
    }

    /// Gives a key a new secret. The one before stays good for a while, so that nobody is locked out. For administrators.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Invalid`], [`Refusal::Conflict`] if the service asks for no keys.
    pub async fn rotate_api_key(
        &self,
        _caller: &Caller,
        id: ApiKeyId,
        overlap_seconds: Option<u64>,
    ) -> Result<IssuedKey, Refusal> {
        let pepper = self.pepper()?;
        let overlap = overlap_seconds.unwrap_or(DEFAULT_OVERLAP_SECONDS);
        if !OVERLAP_SECONDS.contains(&overlap) {
            let detail = format!("overlap_seconds is 0 to {}", OVERLAP_SECONDS.end());
            return Err(FieldError::new("/overlap_seconds", Code::OutOfRange, detail).into());
        }
        let until = Utc::now() + Duration::from_secs(overlap);
        let mut text = new_key_text()?;
        let mac = pepper.mac_of_secret(&text.secret);
        let rotated = db::api_key::rotate(&self.db, id, &mac, until).await?;
        let key = rotated.ok_or_else(|| Refusal::not_found("key", id))?;
        self.forget_key(&key.public_id);
        text.public_id.clone_from(&key.public_id);
        Ok(IssuedKey { key, text: text.reveal() })
    }

    /// Deletes a key. This process refuses it at once, others within seconds. For administrators.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]
    pub async fn delete_api_key(&self, _caller: &Caller, id: ApiKeyId) -> Result<Removed, Refusal> {
        let missing = || Refusal::not_found("key", id);
        let stored = db::api_key::find(&self.db, id).await?.ok_or_else(missing)?;
        if !db::api_key::delete(&self.db, id).await? {
            return Err(missing());
        }
        self.forget_key(&stored.key.public_id);
        Ok(Removed { api_keys: 1, ..Removed::default() })
    }

    /// The key that the caller has; `None` on a service that asks for none.
    pub async fn own_key(&self, caller: &Caller) -> Result<Option<ApiKey>, Refusal> {
        let Some(id) = caller.key_id() else { return Ok(None) };
        Ok(db::api_key::find(&self.db, id).await?.map(|stored| stored.key))
    }

    /// Makes the first key, if there is none yet; of several processes that start at once, one makes it.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] if the keys in the database were made with another pepper.
    pub async fn issue_first_key(&self) -> Result<Option<IssuedKey>, Refusal> {
        let pepper = self.pepper()?;
        let mut tx = self.db.begin().await?;
        db::api_key::take_turn(&mut *tx).await?;
        check_pepper(&mut tx, pepper).await?;
        let first = match db::api_key::any(&mut *tx).await? {
            true => None,
            false => {
                let (project, all) = (ProjectId::DEFAULT, Scopes::all());
                Some(issue(&mut *tx, pepper, project, "first key", all, None).await?)
            }
        };
        tx.commit().await?;
        Ok(first)
    }
}

/// Makes a key that may do everything, for whoever runs the service.
///
/// # Errors
/// If the database cannot be reached; [`Refusal::Conflict`] if its keys were made with another pepper.
pub async fn issue_admin_key(
    db: &PgPool,
    pepper: &Pepper,
    name: &str,
) -> Result<IssuedKey, Refusal> {
    let mut tx = db.begin().await?;
    check_pepper(&mut tx, pepper).await?;
    let (project, all) = (ProjectId::DEFAULT, Scopes::all());
    let issued = issue(&mut *tx, pepper, project, name, all, None).await?;
    tx.commit().await?;
    Ok(issued)
}

/// Refuses a pepper with which no key of the database could be proved.
async fn check_pepper(db: &mut PgConnection, pepper: &Pepper) -> Result<(), Refusal> {
    let ours = pepper.fingerprint();
    if db::api_key::pepper_fingerprint(db, &ours).await? == ours {
        return Ok(());
    }
    let detail = "the keys in the database were made with another pepper: give every process the same VSTAR_KEY_PEPPER";
    Err(Refusal::Conflict(FieldError::new("", Code::KeysNotInUse, detail)))
}

async fn issue(
    db: impl sqlx::PgExecutor<'_>,
    pepper: &Pepper,
    project_id: ProjectId,
    name: &str,
    scopes: Scopes,
    expires_at: Option<DateTime<Utc>>,
) -> Result<IssuedKey, Refusal> {
    let text = new_key_text()?;
    let key = ApiKey {
        key_id: ApiKeyId::generate(),
        project_id,
        public_id: text.public_id.clone(),
        name: name.to_owned(),
        scopes,
        expires_at,
        last_used_at: None,
        previous_until: None,
        created_at: Utc::now(),
    };
    db::api_key::create(db, &key, &pepper.mac_of_secret(&text.secret)).await?;
    Ok(IssuedKey { key, text: text.reveal() })
}
