//! Indexes in the object store, each made once, in the background.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{TextIndex, calibration};
use crate::byte_cache::ByteCache;
use crate::counters::TEXT_INDEXES;
use crate::domain::digest::Digest;
use crate::domain::evaluator_info::EvaluatorInfo;
use crate::engine::EngineError;
use crate::evaluator::Evaluator;
use crate::storage::{Storage, StorageError, StorageKey};

/// Memory for indexes that were used recently: one of a million captions of width 512.
const CACHE_BYTES: usize = 1280 << 20;

/// Why there is no index.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TextIndexError {
    /// It is being made; it will be there later.
    #[error("{done} of {total} captions are encoded")]
    NotReady { done: usize, total: usize },
    #[error("the object store failed")]
    Storage(#[source] Arc<StorageError>),
    #[error("the evaluator failed")]
    Engine(#[source] Arc<EngineError>),
    #[error("the index could not be made")]
    Panicked,
}

impl From<StorageError> for TextIndexError {
    fn from(error: StorageError) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl From<EngineError> for TextIndexError {
    fn from(error: EngineError) -> Self {
        Self::Engine(Arc::new(error))
    }
}

/// The indexes of one evaluator. A clone is a handle to the same ones.
#[derive(Clone)]
pub struct TextIndexes {
    storage: Storage,
    evaluator: Evaluator,
    shutdown: CancellationToken,
    /// By the digest of the set.
    cache: Arc<ByteCache<Digest, Arc<TextIndex>>>,
    builds: Arc<Mutex<HashMap<Digest, Build>>>,
    /// One build at a time, so that the rest of the service keeps its cores.
    turn: Arc<Semaphore>,
    threshold: Arc<OnceCell<f64>>,
}

type Made = Result<Arc<TextIndex>, TextIndexError>;

/// An index that is being made.
#[derive(Clone)]
struct Build {
    result: Shared<BoxFuture<'static, Made>>,
    done: Arc<AtomicUsize>,
    total: usize,
}

impl TextIndexes {
    pub fn new(storage: Storage, evaluator: Evaluator, shutdown: CancellationToken) -> Self {
        Self {
            storage,
            evaluator,
            shutdown,
            cache: Arc::new(ByteCache::new(CACHE_BYTES, &TEXT_INDEXES)),
            builds: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
            threshold: Arc::default(),
        }
    }

    pub fn evaluator(&self) -> &EvaluatorInfo {
        self.evaluator.info()
    }

    /// The tokens of a text; see [`Evaluator::count_tokens`].
    ///
    /// # Errors
    /// For a text that cannot be tokenized.
    pub fn count_tokens(&self, text: &str) -> Result<usize, EngineError> {
        self.evaluator.count_tokens(text)
    }

    /// The evaluator's threshold, measured when it is first asked for.
    ///
    /// # Errors
    /// If the evaluator fails.
    pub async fn threshold(&self) -> Result<f64, TextIndexError> {
        let measure = || async {
            let evaluator = self.evaluator.clone();
            let measured = tokio::task::spawn_blocking(move || calibration::threshold(&evaluator));
            Ok::<f64, TextIndexError>(measured.await.map_err(|_| TextIndexError::Panicked)??)
        };
        self.threshold.get_or_try_init(measure).await.copied()
    }

    /// The vector of a prompt.
    ///
    /// # Errors
    /// If the evaluator fails.
    pub async fn encode(&self, prompt: &str) -> Result<Vec<f32>, TextIndexError> {
        let (evaluator, prompt) = (self.evaluator.clone(), prompt.to_owned());
        let encoded = tokio::task::spawn_blocking(move || evaluator.text_features(&[&prompt]));
        Ok(encoded.await.map_err(|_| TextIndexError::Panicked)??.values().to_vec())
    }

    /// The index of a set. One that does not exist is made, and waited for as long as `within`; it goes on being made after that.
    ///
    /// - `captions`: reads the captions of the set's images, in their order
    ///
    /// # Errors
    /// [`TextIndexError`], and what `captions` answers.
    pub async fn get<E: From<TextIndexError>>(
        &self,
        set: &Digest,
        captions: impl AsyncFnOnce() -> Result<Vec<String>, E>,
        within: Duration,
    ) -> Result<Arc<TextIndex>, E> {
        if let Some(index) = self.cache.get(set) {
            return Ok(index);
        }
        let running = self.builds().get(set).cloned();
        let build = match running {
            Some(build) => build,
            None => match self.read(set).await? {
                Some(index) => return Ok(index),
                None => self.begin(set, captions().await?),
            },
        };
        let made = tokio::time::timeout(within, build.result.clone()).await;
        Ok(made.unwrap_or_else(|_| Err(build.not_ready()))?)
    }

    /// Reads an index that is in the object store.
    async fn read(&self, set: &Digest) -> Result<Option<Arc<TextIndex>>, TextIndexError> {
        let key = self.key(set);
        let Some(bytes) = self.storage.read_if_there(&key).await? else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || TextIndex::from_safetensors(&bytes)).await;
        match read.map_err(|_| TextIndexError::Panicked)? {
            Ok(index) => Ok(Some(self.keep(set, index))),
            Err(error) => {
                // It follows from the set: make it again.
                tracing::warn!(%error, %key, "an index is damaged");
                Ok(None)
            }
        }
    }

    /// Begins to make an index, unless another request has.
    fn begin(&self, set: &Digest, captions: Vec<String>) -> Build {
        let mut builds = self.builds();
        if let Some(build) = builds.get(set) {
            return build.clone();
        }
        let (done, total) = (Arc::new(AtomicUsize::new(0)), captions.len());
        let work = tokio::spawn(self.clone().make(set.clone(), captions, done.clone()));
        let result = work.map(|made| made.unwrap_or(Err(TextIndexError::Panicked)));
        let build = Build { result: result.boxed().shared(), done, total };
        builds.insert(set.clone(), build.clone());
        build
    }

    async fn make(self, set: Digest, captions: Vec<String>, done: Arc<AtomicUsize>) -> Made {
        let made = self.make_and_write(&set, captions, done).await;
        if let Err(error) = &made {
            tracing::warn!(%error, %set, "an index was not made");
        }
        self.builds().remove(&set);
        made
    }

    async fn make_and_write(
        &self,
        set: &Digest,
        captions: Vec<String>,
        done: Arc<AtomicUsize>,
    ) -> Made {
        let _turn = self.turn.acquire().await.map_err(|_| TextIndexError::Panicked)?;
        let (evaluator, shutdown) = (self.evaluator.clone(), self.shutdown.clone());
        let build = move || {
            TextIndex::build(&evaluator, &captions, |so_far, _| {
                done.store(so_far, Ordering::Relaxed);
                match shutdown.is_cancelled() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })
        };
        let built = tokio::task::spawn_blocking(build).await;
        let index = built.map_err(|_| TextIndexError::Panicked)??;
        let file = index.to_safetensors().map_err(|error| {
            tracing::error!(%error, "an index cannot be written");
            TextIndexError::Panicked
        })?;
        self.storage.replace(&self.key(set), file).await?;
        Ok(self.keep(set, index))
    }

    fn keep(&self, set: &Digest, index: TextIndex) -> Arc<TextIndex> {
        let size_bytes = index.size_bytes();
        let index = Arc::new(index);
        self.cache.put(set.clone(), index.clone(), size_bytes);
        index
    }

    fn key(&self, set: &Digest) -> StorageKey {
        StorageKey::text_index(set, &self.evaluator.info().digest)
    }

    fn builds(&self) -> MutexGuard<'_, HashMap<Digest, Build>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Build {
    fn not_ready(&self) -> TextIndexError {
        TextIndexError::NotReady { done: self.done.load(Ordering::Relaxed), total: self.total }
    }
}

impl std::fmt::Debug for TextIndexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextIndexes").field("evaluator", self.evaluator()).finish_non_exhaustive()
    }
}
