//! The class images of a training: read from the sets that the task names, or generated first.

mod generation;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::class_images::ClassImageSet;
use crate::db;
use crate::domain::digest::Digest;
use crate::domain::job::Task;
use crate::domain::regularization::{Generated, Regularization, Selection};
use crate::domain::training::ImageSetRef;
use crate::domain::training::task::TrainingTask;
use crate::domain::version::TaskVersion;
use crate::engine::CaptionedImage;
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// Generates the sets that the task asks for and nobody has generated yet, and names them in the task.
pub(super) async fn generate_missing(
    job: &Job,
    mut task: TrainingTask,
) -> Result<TrainingTask, JobError> {
    let Regularization::Generated { concepts } = &mut task.regularization else { return Ok(task) };
    let mut has_changed = false;
    for Generated { generation, set } in concepts {
        if set.is_none() {
            *set = Some(generation::find_or_generate(job, generation).await?);
            has_changed = true;
        }
    }
    if !has_changed {
        return Ok(task);
    }
    // Another attempt, and whoever asks for the training, finds the sets in the task.
    let named = Task::Training(TrainingTask { version: TaskVersion::NEWEST, ..task });
    let lease = &job.lease;
    let (db, job_id, fence) = (&job.context.db, lease.job_id, lease.fence);
    let rewrite = || async {
        match db::job::rewrite_task(db, job_id, fence, &named).await? {
            true => Ok(()),
            false => Err(JobError::LeaseLost),
        }
    };
    job.patiently("naming the generated class images", rewrite).await?;
    match named {
        Task::Training(task) => Ok(task),
        Task::Merge(_) | Task::Sample(_) | Task::Evaluation(_) | Task::Compression(_) => {
            Err(JobError::LeaseLost)
        } // it was made four lines above
    }
}

/// Reads the class images of each of the task's concepts.
pub(super) async fn read(
    job: &Job,
    task: &TrainingTask,
) -> Result<Vec<Vec<CaptionedImage>>, JobError> {
    let mut sets = Sets { job, read: HashMap::new() };
    let mut of_concepts = Vec::new();
    for (index, concept) in task.concepts.iter().enumerate() {
        let chosen = match &task.regularization {
            Regularization::None => Ok(ClassImageSet::default()),
            Regularization::Set { set, select } => {
                let set = match set {
                    Some(set) => sets.get(set).await?,
                    // A task from before there were sets: the worker's own.
                    None => job.context.class_images.clone(),
                };
                Ok(match select {
                    Selection::ClassNoun => set.choose(&concept.words.class_noun),
                    Selection::All => ClassImageSet::clone(&set),
                })
            }
            Regularization::Retrieved { set, concepts, .. } => {
                let images = concepts.get(index).map_or(&[][..], |one| one.images.as_slice());
                sets.get(set).await?.pick(images.iter().map(|image| image.index))
            }
            Regularization::Generated { concepts } => {
                let set = concepts.get(index).and_then(|one| one.set.as_ref());
                let set = set.ok_or_else(|| io::Error::other("a set was not generated"));
                Ok(ClassImageSet::clone(&*sets.get(set.map_err(JobError::ClassImages)?).await?))
            }
        };
        of_concepts.push(chosen.map_err(JobError::ClassImages)?.into_images());
        job.progress.check()?;
    }
    Ok(of_concepts)
}

/// The sets of a task, each read once.
struct Sets<'a> {
    job: &'a Job,
    read: HashMap<Digest, Arc<ClassImageSet>>,
}

impl Sets<'_> {
    async fn get(&mut self, reference: &ImageSetRef) -> Result<Arc<ClassImageSet>, JobError> {
        if let Some(set) = self.read.get(&reference.digest) {
            return Ok(set.clone());
        }
        let set = Arc::new(read_set(self.job, reference).await?);
        self.read.insert(reference.digest.clone(), set.clone());
        Ok(set)
    }
}

/// Reads a set and checks that it is the one that the task names.
async fn read_set(job: &Job, reference: &ImageSetRef) -> Result<ClassImageSet, JobError> {
    let bytes = job.read(&reference.storage_key).await?;
    let (key, digest) = (reference.storage_key.clone(), reference.digest.clone());
    let damaged = |source| JobError::DamagedObject { key, source };
    let read = tokio::task::spawn_blocking(move || {
        let actual = Digest::of(&bytes);
        if actual != digest {
            let text = format!("its bytes have the SHA-256 {actual:.12} instead of {digest:.12}");
            return Err(io::Error::other(text));
        }
        ClassImageSet::from_zip(&bytes)
    });
    let set = read.await.map_err(io::Error::other).and_then(|set| set);
    set.map_err(|error| damaged(error.into()))
}
