//! Reading jobs for many at a time.
//!
//! Clients that poll ask for the same few jobs again and again, in numbers. Requests that come while a query runs are answered by the
//! next one, all of them together. So every answer is read after its request arrived, and what reading costs hardly grows
//! with the number of clients.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{JobNoun, Tracked, narrow};
use crate::app::refusal::Dependency;
use crate::app::{App, Refusal};
use crate::db;
use crate::domain::compression::CompressionTask;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::id::{JobId, ProjectId};
use crate::domain::merge::MergeTask;
use crate::domain::sample::SampleTask;
use crate::domain::training::task::TrainingTask;

/// Jobs that are read by one query.
const MAX_AT_ONCE: usize = 100;

/// The least time between two queries while requests keep coming. A client alone never waits for it.
const GATHER: Duration = Duration::from_millis(25);

/// The jobs that are asked for, by kind. A clone is a handle to the same ones.
#[derive(Clone, Debug, Default)]
pub(in crate::app) struct Readings {
    pub(in crate::app) training: Reading<TrainingTask>,
    pub(in crate::app) merge: Reading<MergeTask>,
    pub(in crate::app) sample: Reading<SampleTask>,
    pub(in crate::app) evaluation: Reading<EvaluationTask>,
    pub(in crate::app) compression: Reading<CompressionTask>,
}

type Key = (JobId, ProjectId);
type Answer<N> = Result<Option<Arc<Tracked<N>>>, NotRead>;

/// The jobs of one kind that are asked for.
pub struct Reading<N: JobNoun>(Arc<Mutex<Asked<N>>>);

struct Asked<N: JobNoun> {
    waiting: HashMap<Key, Vec<oneshot::Sender<Answer<N>>>>,
    /// Whether a task reads what is asked for.
    is_read: bool,
}

/// Why jobs could not be read, for each of those who asked.
#[derive(Clone, Debug)]
struct NotRead {
    is_unavailable: bool,
    cause: String,
}

impl From<Refusal> for NotRead {
    fn from(refusal: Refusal) -> Self {
        let is_unavailable = matches!(refusal, Refusal::Unavailable { .. });
        let source = std::error::Error::source(&refusal).map(ToString::to_string);
        Self { is_unavailable, cause: source.unwrap_or_else(|| refusal.to_string()) }
    }
}

impl From<NotRead> for Refusal {
    fn from(NotRead { is_unavailable, cause }: NotRead) -> Self {
        match is_unavailable {
            true => Self::Unavailable { dependency: Dependency::Database, source: cause.into() },
            false => Self::internal(cause),
        }
    }
}

impl<N: JobNoun> Reading<N> {
    /// Returns a job as it is now, or `None` if its project has none of this id.
    pub(super) async fn read(
        &self,
        app: &App,
        project_id: ProjectId,
        job_id: JobId,
    ) -> Result<Option<Tracked<N>>, Refusal> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut asked = self.lock();
            asked.waiting.entry((job_id, project_id)).or_default().push(sender);
            if !asked.is_read {
                asked.is_read = true;
                tokio::spawn(Running { reading: self.clone(), has_ended: false }.run(app.clone()));
            }
        }
        let answer = receiver.await.map_err(Refusal::internal)??;
        Ok(answer.map(Arc::unwrap_or_clone))
    }

    fn lock(&self) -> MutexGuard<'_, Asked<N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job, and those who have asked for it.
type AskedFor<N> = (Key, Vec<oneshot::Sender<Answer<N>>>);

/// The task that reads. If it panics, whoever waits is told, and the next request begins another one.
struct Running<N: JobNoun> {
    reading: Reading<N>,
    has_ended: bool,
}

impl<N: JobNoun> Running<N> {
    async fn run(mut self, app: App) {
        while let Some(asked) = self.next() {
            let began = Instant::now();
            let keys: Vec<Key> = asked.iter().map(|(key, _)| *key).collect();
            let read = read_all::<N>(&app, &keys).await.map_err(NotRead::from);
            for (key, senders) in asked {
                let answer = match &read {
                    Ok(jobs) => Ok(jobs.get(&key.0).cloned()),
                    Err(error) => Err(error.clone()),
                };
                for sender in senders {
                    let _ = sender.send(answer.clone()); // whoever has left needs no answer
                }
            }
            if !self.reading.lock().waiting.is_empty() {
                tokio::time::sleep_until(began + GATHER).await; // several have asked meanwhile: more will
            }
        }
    }

    /// What to read next; `None` if there is nothing, which ends the task.
    fn next(&mut self) -> Option<Vec<AskedFor<N>>> {
        let mut asked = self.reading.lock();
        // A job is asked for by one project at a time, so that what is found belongs to whoever asked.
        let mut jobs = HashSet::new();
        let keys = asked.waiting.keys().copied().filter(|(job_id, _)| jobs.insert(*job_id));
        let keys: Vec<Key> = keys.take(MAX_AT_ONCE).collect();
        if keys.is_empty() {
            asked.is_read = false;
            self.has_ended = true;
            return None;
        }
        let taken = keys.into_iter().filter_map(|key| asked.waiting.remove_entry(&key));
        Some(taken.collect())
    }
}

impl<N: JobNoun> Drop for Running<N> {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut asked = self.reading.lock();
            asked.waiting.clear(); // whoever waits is told
            asked.is_read = false;
        }
    }
}

/// Reads jobs that their projects have.
async fn read_all<N: JobNoun>(
    app: &App,
    keys: &[Key],
) -> Result<HashMap<JobId, Arc<Tracked<N>>>, Refusal> {
    let found = db::job::find_all(&app.db, keys, N::KIND).await?;
    let jobs = found.into_iter().map(narrow::<N>).collect::<Result<_, _>>()?;
    let tracked = app.track(jobs).await?;
    Ok(tracked.into_iter().map(|tracked| (tracked.job.job_id, Arc::new(tracked))).collect())
}

impl<N: JobNoun> Clone for Reading<N> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<N: JobNoun> Default for Reading<N> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Asked { waiting: HashMap::new(), is_read: false })))
    }
}

impl<N: JobNoun> std::fmt::Debug for Reading<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}
