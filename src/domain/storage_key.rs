//! Names of objects in the store. Only this file builds them.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::id::{ConceptId, ImageId, JobId, UploadId};

/// The name of an object.
///
/// The keys of a job's results contain the job and its fence, so a worker that has lost its lease never overwrites what
/// its successor writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct StorageKey(String);

/// What an object belongs to, as its key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOwner {
    /// A photo or an image to start from.
    Image(ImageId),
    /// The job that has made it.
    Job(JobId),
    /// The set with this digest: its files, or what was computed from them.
    ImageSet(Digest),
    /// A file that a client sends by a signed URL.
    Incoming(UploadId),
    /// Nothing: it was written to see that the store works.
    Probe,
    /// A base model. It is computed again where it is not there, and no row refers to it.
    BaseModel,
}

impl StorageKey {
    /// The folders that keys begin with.
    pub const FOLDERS: [&str; 8] = [
        "base-models",
        "checkpoints",
        "concepts",
        "image-sets",
        "incoming",
        "jobs",
        "probes",
        "uploads",
    ];

    /// What the object belongs to; `None` for a key that this file has not built.
    pub fn owner(&self) -> Option<KeyOwner> {
        let image = |file: &str| file.strip_suffix(".png")?.parse().ok().map(KeyOwner::Image);
        let parts: Vec<&str> = self.0.split('/').collect();
        match parts[..] {
            ["concepts", concept, file] => {
                concept.parse::<ConceptId>().ok()?;
                image(file)
            }
            ["uploads", file] => image(file),
            ["jobs" | "checkpoints", job, fence, _] => {
                fence.parse::<i64>().ok()?;
                job.parse().ok().map(KeyOwner::Job)
            }
            ["image-sets", file] => {
                let (digest, _) = file.split_once('.')?;
                let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
                is_digest.then(|| KeyOwner::ImageSet(digest.into()))
            }
            ["incoming", upload] => upload.parse().ok().map(KeyOwner::Incoming),
            ["base-models", ..] => Some(KeyOwner::BaseModel),
            ["probes", _] => Some(KeyOwner::Probe),
            _ => None,
        }
    }

    /// A photo of a concept.
    pub fn photo(concept: ConceptId, image: ImageId) -> Self {
        Self(format!("concepts/{concept}/{image}.png"))
    }

    /// An image to start samples from.
    pub fn upload(image: ImageId) -> Self {
        Self(format!("uploads/{image}.png"))
    }

    /// A file that a client sends by a signed URL, before it has been looked at.
    pub fn incoming(upload: UploadId) -> Self {
        Self(format!("incoming/{upload}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_its_object_belongs_to() {
        let (concept, image, job) = (ConceptId::generate(), ImageId::generate(), JobId::generate());
        let upload = UploadId::generate();
        let digest = Digest::of(b"a set");
        for (key, owner) in [
            (StorageKey::photo(concept, image), KeyOwner::Image(image)),
            (StorageKey::upload(image), KeyOwner::Image(image)),
            (StorageKey::incoming(upload), KeyOwner::Incoming(upload)),
            (StorageKey::delta(job, 3), KeyOwner::Job(job)),
            (StorageKey::pack(job, 3, &digest), KeyOwner::Job(job)),
            (StorageKey::sample(job, 3, 0), KeyOwner::Job(job)),
            (StorageKey::sheet(job, 3), KeyOwner::Job(job)),
            (StorageKey::image_set(&digest), KeyOwner::ImageSet(digest.clone())),
            (StorageKey::text_index(&digest, "e"), KeyOwner::ImageSet(digest.clone())),
            (StorageKey::regularization_statistics("b", "c"), KeyOwner::BaseModel),
        ] {
            assert_eq!(key.owner(), Some(owner), "{key}");
            let folder = key.as_str().split('/').next().unwrap();
            assert!(StorageKey::FOLDERS.contains(&folder), "{key}");
        }
        for foreign in
            ["", "jobs/1/delta", "jobs/job_1/3/delta", "uploads/holiday.png", "notes.txt"]
        {
            assert_eq!(StorageKey::stored(foreign).owner(), None, "{foreign}");
        }
    }
}
