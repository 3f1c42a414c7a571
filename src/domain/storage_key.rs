//! Names of objects in the store. Only this file builds them.

use serde::{Deserialize, Serialize};

use super::id::{ConceptId, ImageId, JobId};

/// The name of an object.
///
/// The keys of a job's results contain the job and its fence, so a worker that has lost its lease never overwrites what
/// its successor writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct StorageKey(String);

impl StorageKey {
    /// A photo of a concept.
    pub fn photo(concept: ConceptId, image: ImageId) -> Self {
        Self(format!("concepts/{concept}/{image}.png"))
    }

    /// An image to start samples from.
    pub fn upload(image: ImageId) -> Self {
        Self(format!("uploads/{image}.png"))
    }

    /// The delta that a training or a merge has made.
    pub fn delta(job: JobId, fence: i64) -> Self {
        Self(format!("jobs/{job}/{fence}/delta.safetensors"))
    }

    /// The state of a training after `step` steps.
    pub fn checkpoint(job: JobId, fence: i64, step: usize) -> Self {
        Self(format!("checkpoints/{job}/{fence}/{step}.safetensors"))
    }

    /// The merge pack of a delta that a job has made; the key contains the digest by which it is checked.
    pub fn pack(job: JobId, fence: i64, sha256: &str) -> Self {
        Self(format!("jobs/{job}/{fence}/pack-{sha256}.safetensors"))
    }

    /// The regularization statistics of a base model and a set of captions, by the digests of both.
    ///
    /// The key says `merge` since version 0.1.0, whose objects are still read.
    pub fn regularization_statistics(base_digest: &str, captions_digest: &str) -> Self {
        Self(format!("base-models/{base_digest}/merge-{captions_digest}.safetensors"))
    }

    /// A set of class images, by the digest of its content.
    pub fn image_set(digest: &str) -> Self {
        Self(format!("image-sets/{digest}.zip"))
    }

    /// The vectors of a set's captions, by the digests of the set and of the model that has made them.
    pub fn text_index(set_digest: &str, evaluator_digest: &str) -> Self {
        Self(format!("image-sets/{set_digest}.text-{evaluator_digest}.safetensors"))
    }

    /// Image `index` of a sample.
    pub fn sample(job: JobId, fence: i64, index: usize) -> Self {
        Self(format!("jobs/{job}/{fence}/{index}.png"))
    }

    /// The contact sheet of an evaluation.
    pub fn sheet(job: JobId, fence: i64) -> Self {
        Self(format!("jobs/{job}/{fence}/sheet.png"))
    }

    /// A key as a row or a task has it.
    pub fn stored(text: &(impl AsRef<str> + ?Sized)) -> Self {
        Self(text.as_ref().to_owned())
    }

    /// The key as a row has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for StorageKey {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for StorageKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<String> for StorageKey {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Display for StorageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
