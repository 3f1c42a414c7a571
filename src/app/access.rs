//! Who sends a request: keys and client tokens, and how often they may ask.
//!
//! A key is found by its public part and proved by its secret one. The database has an HMAC of the secret, and the pepper that
//! the HMAC is made with is not in the database, so a copy of it gives nobody a key.

mod bucket;
mod secret;
mod token;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use quick_cache::sync::Cache;

use super::{App, Caller, Refusal};
use crate::db;
use crate::db::api_key::StoredKey;
use crate::domain::access::KeyText;

use self::bucket::Buckets;
pub use self::bucket::{RateClass, Rates, Taken};
pub use self::secret::Pepper;
pub(super) use self::secret::new_key_text;
pub(super) use self::token::{ClientToken, sign};

/// How long another process goes on accepting a key that was deleted here.
const KEY_IS_CACHED: Duration = Duration::from_secs(10);
/// Keys that are kept, with those that do not exist.
const CACHED_KEYS: usize = 10_000;
/// How exactly the last use of a key is known.
const USE_IS_NOTED_EVERY: chrono::TimeDelta = chrono::TimeDelta::minutes(1);

/// Whether callers need keys, and how often they may ask.
pub struct Access {
    /// `None` if everybody may do everything.
    pepper: Option<Pepper>,
    keys: Cache<String, Arc<CachedKey>>,
    buckets: Buckets,
}

struct CachedKey {
    /// `None` for a key that does not exist.
    stored: Option<StoredKey>,
    read_at: Instant,
    is_use_noted: AtomicBool,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("asks_for_keys", &self.pepper.is_some()).finish()
    }
}

impl Access {
    /// Everybody may do everything, as often as they like.
    pub fn open() -> Self {
        Self { pepper: None, keys: Cache::new(1), buckets: Buckets::new(Rates::default()) }
    }

    /// Every caller needs a key.
    pub fn by_keys(pepper: Pepper, rates: Rates) -> Self {
        let keys = Cache::new(CACHED_KEYS);
        Self { pepper: Some(pepper), keys, buckets: Buckets::new(rates) }
    }
}

impl App {
    /// Sets who may call.
    pub fn with_access(self, access: Access) -> Self {
        self.with(|parts| parts.access = Arc::new(access))
    }

    /// Whether callers need keys.
    pub fn asks_for_keys(&self) -> bool {
        self.access.pepper.is_some()
    }

    /// The pepper of keys.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] if the service asks for no keys.
    pub(super) fn pepper(&self) -> Result<&Pepper, Refusal> {
        use crate::domain::code::Code;
        use crate::domain::invalid::FieldError;

        self.access.pepper.as_ref().ok_or_else(|| {
            let detail = "this service asks for no keys: start it with --auth keys to use them";
            Refusal::Conflict(FieldError::new("", Code::KeysNotInUse, detail))
        })
    }

    /// Who has this key.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`], without a hint at what is wrong with it.
    pub async fn caller_with_key(&self, text: &str) -> Result<Caller, Refusal> {
        let unknown =
            || Refusal::unauthenticated("the key is not valid: check it, or ask for another");
        let Some(pepper) = &self.access.pepper else { return Ok(Caller::anonymous()) };
        let text: KeyText = text.parse().map_err(|_| unknown())?;
        let cached = self.cached_key(&text.public_id).await?;
        let stored = cached.stored.as_ref().ok_or_else(unknown)?;
        let now = Utc::now();
        let is_former = || {
            let former = stored.previous_mac.as_deref().zip(stored.key.previous_until);
            former.is_some_and(|(mac, until)| now < until && pepper.proves(&text.secret, mac))
        };
        if !pepper.proves(&text.secret, &stored.secret_mac) && !is_former() {
            return Err(unknown());
        }
        self.check_living(stored)?;
        self.note_use(&cached, stored);
        Ok(Caller::with_key(&stored.key))
    }

    /// Who has this client token.
    ///
    /// - `origin`: of the page that sends the request
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`]; [`Refusal::Forbidden`] for another origin than the token's.
    pub async fn caller_with_token(
        &self,
        text: &str,
        origin: Option<&str>,
    ) -> Result<Caller, Refusal> {
        let Some(pepper) = &self.access.pepper else { return Ok(Caller::anonymous()) };
        let token = token::verify(pepper, text)?;
        let cached = self.cached_key(&token.public_id).await?;
        let stored = cached.stored.as_ref().ok_or_else(|| {
            Refusal::unauthenticated(
                "the key that this token was made with is gone: make another token",
            )
        })?;
        self.check_living(stored)?;
        token.check_origin(origin)?;
        Ok(Caller::with_token(&stored.key, token.bound))
    }

    fn check_living(&self, stored: &StoredKey) -> Result<(), Refusal> {
        match stored.key.expires_at {
            Some(end) if end <= Utc::now() => {
                Err(Refusal::unauthenticated("the key has expired: ask for another"))
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn cached_key(&self, public_id: &str) -> Result<Arc<CachedKey>, Refusal> {
        if let Some(cached) = self.access.keys.get(public_id)
            && cached.read_at.elapsed() < KEY_IS_CACHED
        {
            return Ok(cached);
        }
        let stored = db::api_key::find_by_public_id(&self.db, public_id).await?;
        let is_use_noted = AtomicBool::new(false);
        let cached = Arc::new(CachedKey { stored, read_at: Instant::now(), is_use_noted });
        self.access.keys.insert(public_id.to_owned(), cached.clone());
        Ok(cached)
    }

    /// Forgets what is known of a key that has changed.
    pub(super) fn forget_key(&self, public_id: &str) {
        self.access.keys.remove(public_id);
    }

    /// Notes the use of a key beside the request.
    fn note_use(&self, cached: &CachedKey, stored: &StoredKey) {
        let is_recent =
            stored.key.last_used_at.is_some_and(|last| Utc::now() - last < USE_IS_NOTED_EVERY);
        if is_recent || cached.is_use_noted.swap(true, Ordering::Relaxed) {
            return;
        }
        let (db, key_id) = (self.db.clone(), stored.key.key_id);
        tokio::spawn(async move {
            if let Err(error) = db::api_key::note_use(&db, key_id).await {
                tracing::warn!(%error, key.id = %key_id, "the use of a key was not noted");
            }
        });
    }

    /// Counts a request of a caller against its rate. `None` if there is no limit.
    pub fn take_from_rate(&self, caller: &Caller, class: RateClass) -> Option<Taken> {
        self.access.buckets.take(caller.key_id()?, class)
    }
}
