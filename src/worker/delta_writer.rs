//! New deltas: from the device to their objects and the row that names them.

use super::engine::Engine;
use super::error::JobError;
use super::job::Job;
use crate::db::delta::NewDelta;
use crate::domain::digest::Digest;
use crate::domain::id::{DeltaId, JobId};
use crate::engine::Delta;
use crate::engine::MergePack;
use crate::engine::Result as EngineResult;
use crate::storage::StorageKey;

/// A delta's file, and what later merges need of it.
pub(crate) struct PackedDelta {
    file: Vec<u8>,
    pack: MergePack,
}

impl PackedDelta {
    pub(crate) fn new(engine: &Engine, delta: &Delta) -> EngineResult<Self> {
        let file = delta.to_safetensors()?;
        // Of the delta as whoever reads the file has it.
        let pack = MergePack::build(&engine.base, &Delta::from_safetensors(&file)?, 1.0)?;
        Ok(Self { file, pack })
    }

    /// Writes the delta and its pack under keys of the job and its fence.
    pub(crate) async fn store(self, job: &Job) -> Result<StoredDelta, JobError> {
        let (store, job_id, fence) = (&job.context.deltas, job.lease.job_id, job.lease.fence);
        let pack_key = store.write_pack(job_id, fence, &self.pack).await?;
        let (size_bytes, sha256) = (self.file.len() as i64, Digest::of(&self.file));
        Ok(StoredDelta {
            delta_id: DeltaId::generate(),
            job_id,
            size_bytes,
            sha256,
            key: store.write_delta(job_id, fence, self.file).await?,
            pack_key,
        })
    }
}

/// A delta whose objects are written and whose row is not.
pub(crate) struct StoredDelta {
    pub(crate) delta_id: DeltaId,
    job_id: JobId,
    key: StorageKey,
    size_bytes: i64,
    sha256: Digest,
    pack_key: StorageKey,
}

impl StoredDelta {
    pub(crate) fn row<'a>(&'a self, base_digest: &'a str) -> NewDelta<'a> {
        NewDelta {
            delta_id: self.delta_id,
            job_id: self.job_id,
            base_digest,
            storage_key: self.key.as_str(),
            size_bytes: self.size_bytes,
            sha256: &self.sha256,
            pack_key: Some(self.pack_key.as_str()),
        }
    }
}
