//! Requests with an `Idempotency-Key`: what they ask for is made once, however often they are sent.
//!
//! The key is noted in the transaction that makes the thing: `App::claim_key`. So a process that is killed leaves either both or
//! neither, and a request that is refused leaves its key free. What was answered is kept after that; if the process ends before, the
//! answer follows from what was made.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use super::{App, Caller, Refusal};
use crate::db;
use crate::db::idempotency::{KeptAnswer, KeyOf};
use crate::domain::id::ProjectId;

tokio::task_local! {
    /// The keyed request that this task serves.
    static REQUEST: Option<KeyedRequest>;
}

/// A request with a key. A clone is a handle to the same one.
#[derive(Clone, Debug)]
pub struct KeyedRequest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: RequestId,
    fingerprint: Mutex<Sha256>,
    is_claimed: AtomicBool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RequestId {
    project_id: ProjectId,
    operation: String,
    key: String,
}

/// The answer to a request that was made before.
#[derive(Debug)]
pub enum EarlierAnswer {
    /// As it was given.
    Kept { status: u16, location: Option<String>, body: Vec<u8> },
    /// The published id of what was made. The answer was not kept, or has not been given yet.
    Made(String),
}

impl KeyedRequest {
    /// - `operation`: method and route
    pub fn new(caller: &Caller, operation: String, key: String) -> Self {
        let id = RequestId { project_id: caller.project_id(), operation, key };
        let (fingerprint, is_claimed) = Default::default();
        Self(Arc::new(Inner { id, fingerprint, is_claimed }))
    }

    /// Adds a part of what was sent to the fingerprint.
    pub fn add(&self, bytes: &[u8]) {
        let mut fingerprint = self.0.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        fingerprint.update((bytes.len() as u64).to_le_bytes());
        fingerprint.update(bytes);
    }

    /// Adds more of a part that comes in pieces.
    pub fn add_more(&self, bytes: &[u8]) {
        let mut fingerprint = self.0.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        fingerprint.update(bytes);
    }

    fn fingerprint(&self) -> Vec<u8> {
        let fingerprint = self.0.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        fingerprint.clone().finalize().to_vec()
    }

    fn key(&self) -> KeyOf<'_> {
        let RequestId { project_id, operation, key } = &self.0.id;
        KeyOf { project_id: *project_id, operation, key }
    }

    /// Serves the request: verbs that are called by `work` note its key with what they make.
    pub async fn serve<F: Future>(self, work: F) -> F::Output {
        REQUEST.scope(Some(self), work).await
    }

    /// Marks the request as being served by this process until the result is dropped.
    ///
    /// # Errors
    /// [`Refusal::KeyInFlight`] if it is being served already.
    pub fn begin(&self) -> Result<InFlight, Refusal> {
        match lock_in_flight(|all| all.insert(self.0.id.clone())) {
            true => Ok(InFlight(self.clone())),
            false => Err(Refusal::KeyInFlight),
        }
    }
}

/// Whether this task serves a request that may be sent again with its key.
pub fn is_keyed() -> bool {
    REQUEST.try_with(Option::is_some).unwrap_or(false)
}

/// Does what only prepares for what a request makes: it notes no key.
pub async fn beforehand<F: Future>(work: F) -> F::Output {
    REQUEST.scope(None, work).await
}

/// The keyed requests that this process serves.
static IN_FLIGHT: LazyLock<Mutex<HashSet<RequestId>>> = LazyLock::new(Mutex::default);

fn lock_in_flight<T>(change: impl FnOnce(&mut HashSet<RequestId>) -> T) -> T {
    change(&mut IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A keyed request that is being served.
#[derive(Debug)]
pub struct InFlight(KeyedRequest);

impl Drop for InFlight {
    fn drop(&mut self) {
        lock_in_flight(|all| all.remove(&self.0.0.id));
    }
}

impl App {
    /// Whether the key of a request is known. Its body need not have been read for that.
    pub async fn knows_key(&self, request: &KeyedRequest) -> Result<bool, Refusal> {
        Ok(db::idempotency::find(&self.db, request.key()).await?.is_some())
    }

    /// Returns what was answered to this request before, if anything was.
    ///
    /// # Errors
    /// [`Refusal::KeyReused`] if the key came with another request.
    pub async fn earlier_answer(
        &self,
        request: &KeyedRequest,
    ) -> Result<Option<EarlierAnswer>, Refusal> {
        let Some(kept) = db::idempotency::find(&self.db, request.key()).await? else {
            return Ok(None);
        };
        if kept.fingerprint != request.fingerprint() {
            return Err(Refusal::KeyReused);
        }
        Ok(match (kept.status, kept.body, kept.made) {
            (Some(status), Some(body), _) => Some(EarlierAnswer::Kept {
                status: u16::try_from(status).map_err(Refusal::internal)?,
                location: kept.location,
                body,
            }),
            (_, _, made) => made.map(EarlierAnswer::Made),
        })
    }

    /// Keeps what is answered to a request.
    pub async fn keep_answer(
        &self,
        request: &KeyedRequest,
        status: u16,
        location: Option<&str>,
        body: &[u8],
    ) -> Result<(), Refusal> {
        let status = i16::try_from(status).map_err(Refusal::internal)?;
        let answer = KeptAnswer { status, location, body };
        let fingerprint = request.fingerprint();
        Ok(db::idempotency::keep_answer(&self.db, request.key(), &fingerprint, answer).await?)
    }

    /// Notes the key of the request that this task serves, if it has one, in the transaction that makes what the request asks for.
    ///
    /// - `made`: the published id of that
    ///
    /// # Errors
    /// [`Refusal::KeyInFlight`] if another request with this key was faster.
    pub(super) async fn claim_key(
        &self,
        tx: &mut PgConnection,
        made: impl Display,
    ) -> Result<(), Refusal> {
        let Ok(Some(request)) = REQUEST.try_with(Clone::clone) else { return Ok(()) };
        if request.0.is_claimed.swap(true, Ordering::Relaxed) {
            return Ok(()); // a request makes one thing, and whatever belongs to it
        }
        let fingerprint = request.fingerprint();
        let made = made.to_string();
        let is_first = db::idempotency::claim(tx, request.key(), &fingerprint, &made).await?;
        if is_first { Ok(()) } else { Err(Refusal::KeyInFlight) }
    }
}
