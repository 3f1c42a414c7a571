//! Keys of the API, and the client tokens that are made with them.

use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool};

use super::access::{ClientToken, Pepper, new_key_text, sign};
use super::project::check_name;
use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::access::{ApiKey, Bound, Scope, Scopes};
use crate::domain::code::Code;
use crate::domain::compression::CompressionTask;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::id::{
    ApiKeyId, CompressionId, EvaluationId, MergeId, ProjectId, SampleId, TrainingId,
};
use crate::domain::invalid::FieldError;
use crate::domain::job::JobKind;
use crate::domain::merge::MergeTask;
use crate::domain::page::{Page, PageOf};
use crate::domain::sample::SampleTask;
use crate::domain::training::task::TrainingTask;

/// How long the secret before a rotation may stay good, in seconds: at most a week.
pub const OVERLAP_SECONDS: RangeInclusive<u64> = 0..=604_800;
/// How long it does if the request does not say.
pub const DEFAULT_OVERLAP_SECONDS: u64 = 86_400;
/// How long a client token may be good, in seconds.
pub const TOKEN_SECONDS: RangeInclusive<u64> = 1..=900;
/// How long it is if the request does not say.
pub const DEFAULT_TOKEN_SECONDS: u64 = 300;

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

/// A client token to make; exactly one of `concept` and `job` is given.
#[derive(Clone, Debug)]
pub struct NewClientToken {
    /// The id or the handle of a concept.
    pub concept: Option<String>,
    /// The id of a job of any kind.
    pub job: Option<String>,
    pub origin: Option<String>,
    pub seconds: Option<u64>,
}

/// A client token.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    pub text: String,
    pub bound: Bound,
    pub origin: Option<String>,
    pub expires_at: DateTime<Utc>,
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
    pub async fn delete_api_key(&self, _caller: &Caller, id: ApiKeyId) -> Result<(), Refusal> {
        let missing = || Refusal::not_found("key", id);
        let stored = db::api_key::find(&self.db, id).await?.ok_or_else(missing)?;
        if !db::api_key::delete(&self.db, id).await? {
            return Err(missing());
        }
        self.forget_key(&stored.key.public_id);
        Ok(())
    }

    /// The key that the caller has; `None` on a service that asks for none.
    pub async fn own_key(&self, caller: &Caller) -> Result<Option<ApiKey>, Refusal> {
        let Some(id) = caller.key_id() else { return Ok(None) };
        Ok(db::api_key::find(&self.db, id).await?.map(|stored| stored.key))
    }

    /// Makes a client token, which can do no more than the caller's own key.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if what it is to be good for does not exist; [`Refusal::Conflict`] if the service asks for no
    /// keys.
    pub async fn create_client_token(
        &self,
        caller: &Caller,
        new: NewClientToken,
    ) -> Result<IssuedToken, Refusal> {
        let pepper = self.pepper()?;
        let seconds = new.seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
        if !TOKEN_SECONDS.contains(&seconds) {
            let detail = format!("expires_in_seconds is 1 to {}", TOKEN_SECONDS.end());
            return Err(FieldError::new("/expires_in_seconds", Code::OutOfRange, detail).into());
        }
        if let Some(origin) = &new.origin {
            check_origin(origin)?;
        }
        let bound = match (&new.concept, &new.job) {
            (Some(name), None) => {
                let found = self.find_concept(caller, name).await;
                let concept = unknown(found, "/concept", "concept", name)?;
                Bound::Concept(concept.concept_id)
            }
            (None, Some(id)) => {
                let found = self.bound_to_job(caller, id).await;
                unknown(found, "/job", "job", id)?
            }
            (None, None) | (Some(_), Some(_)) => {
                let detail = "a client token is good for one thing: name a `concept` or a `job`";
                return Err(FieldError::new("", Code::ConflictingFields, detail).into());
            }
        };
        let key = self.own_key(caller).await?;
        let key = key.ok_or_else(|| Refusal::unauthenticated("the key is gone"))?;
        let end = Utc::now() + TimeDelta::seconds(i64::try_from(seconds).unwrap_or(0));
        let expires_at = key.expires_at.map_or(end, |expires| expires.min(end));
        let token = ClientToken { public_id: key.public_id, bound, origin: new.origin, expires_at };
        let text = sign(pepper, &token)?;
        Ok(IssuedToken { text, bound, origin: token.origin, expires_at })
    }

    /// Finds a job of whatever kind its id says.
    async fn bound_to_job(&self, caller: &Caller, id: &str) -> Result<Bound, Refusal> {
        let missing = || Refusal::not_found("job", id);
        macro_rules! try_kinds {
            ($($id:ident, $task:ident, $kind:ident;)*) => {
                $(if let Ok(id) = id.parse::<$id>() {
                    self.standing::<$task>(caller, id).await?;
                    return Ok(Bound::Job(JobKind::$kind, id.into()));
                })*
            };
        }
        try_kinds! {
            TrainingId, TrainingTask, Training;
            SampleId, SampleTask, Sample;
            MergeId, MergeTask, Merge;
            EvaluationId, EvaluationTask, Evaluation;
            CompressionId, CompressionTask, Compression;
        }
        Err(missing())
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

/// What is not found is an error of the field that names it.
fn unknown<T>(
    found: Result<T, Refusal>,
    pointer: &str,
    what: &str,
    name: &str,
) -> Result<T, Refusal> {
    match found {
        Err(Refusal::NotFound { .. }) => {
            let name: String = name.chars().take(100).collect();
            let detail = format!("no {what} `{name}`: check its id");
            let code = if what == "concept" { Code::UnknownConcept } else { Code::InvalidValue };
            Err(FieldError::new(pointer, code, detail).into())
        }
        other => other,
    }
}

/// Refuses what no browser sends as the origin of a page.
fn check_origin(origin: &str) -> Result<(), FieldError> {
    let parsed = url::Url::parse(origin).ok().map(|url| url.origin().ascii_serialization());
    match parsed.as_deref() {
        Some(canonical) if canonical == origin && origin.starts_with("http") => Ok(()),
        Some(_) | None => {
            let detail = "an origin is a scheme, a host and a port other than the scheme's own, such as https://shop.example";
            Err(FieldError::new("/origin", Code::InvalidValue, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_do() {
        for good in ["https://shop.example", "http://localhost:3000"] {
            assert!(check_origin(good).is_ok(), "{good}");
        }
        for wrong in [
            "https://shop.example/",
            "https://Shop.example",
            "https://a.example:443",
            "null",
            "*",
            "",
        ] {
            assert!(check_origin(wrong).is_err(), "{wrong}");
        }
    }
}
