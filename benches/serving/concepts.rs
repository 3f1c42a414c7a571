//! Concepts that nobody trained: random deltas, stored and recorded by the service's own code.

use std::collections::BTreeMap;
use std::time::Duration;

use candle_core::Tensor;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use vstar::db;
use vstar::db::job::{Capacity, NewJob};
use vstar::domain::concept::{ClassNoun, ConceptWords, Handle, ModifierToken};
use vstar::domain::id::{ConceptId, DeltaId, JobId, ProjectId};
use vstar::domain::job::{JobKind, Task};
use vstar::domain::merge::{MergeRecipe, MergeTask};
use vstar::domain::promotion::Promoter;
use vstar::domain::record::Labels;
use vstar::domain::version::TaskVersion;
use vstar::engine::random::{Purpose, Random};
use vstar::engine::{BaseModel, Delta, DeltaConcept, DeltaWeights};
use vstar::storage::{Storage, StorageKey};

/// How far the random matrices are from the base model's, in units of its own spread.
const DEVIATION: f32 = 0.2;

/// Makes concepts for one base model.
pub(crate) struct Concepts {
    pub(crate) db: PgPool,
    pub(crate) storage: Storage,
    /// The base model's matrices, on which the deltas are built.
    base: BTreeMap<String, Tensor>,
    base_digest: String,
    text_dim: usize,
}

/// A concept that can be named in prompts.
pub(crate) struct Concept {
    /// Such as `<c-17>`.
    pub(crate) token: String,
    pub(crate) delta_key: StorageKey,
}

impl Concepts {
    pub(crate) fn new(db: PgPool, storage: Storage, base: &BaseModel) -> anyhow::Result<Self> {
        let mut matrices = BTreeMap::new();
        for layer in base.unet.cross_attention() {
            matrices.insert(format!("{}.to_k.weight", layer.name), layer.to_k.clone());
            matrices.insert(format!("{}.to_v.weight", layer.name), layer.to_v.clone());
        }
        Ok(Self {
            db,
            storage,
            base: matrices,
            base_digest: base.digest.clone(),
            text_dim: base.prompt_encoder.hidden_size(),
        })
    }

    /// Adds concept `number`, of the class dog.
    pub(crate) async fn add(&self, number: u64) -> anyhow::Result<Concept> {
        let token = ModifierToken::try_from(format!("<c-{number}>"))?;
        let noun = ClassNoun::try_from("dog".to_owned())?;
        let bytes = self.delta(number, &token)?.to_safetensors()?;

        // The job that made it is for a base model that no worker has, so that no worker takes it up.
        let (concept_id, delta_id, job_id) =
            (ConceptId::generate(), DeltaId::generate(), JobId::generate());
        let base_digest = format!("none, for {job_id}");
        let task = MergeTask {
            version: TaskVersion::NEWEST,
            base_digest: base_digest.as_str().into(),
            deltas: vec![],
            concepts: vec![],
            recipe: MergeRecipe::default(),
        };
        db::job::enqueue(&self.db, NewJob::new(job_id, &Task::Merge(task), 1, 1.0)).await?;
        let capacity = Capacity {
            worker: "concepts",
            kinds: &[JobKind::Merge],
            evaluator_digest: None,
            memory_mib: None,
            base_digest: &base_digest,
            batch_elements: 1,
            lease: Duration::from_secs(60),
        };
        let leased = db::job::lease_next(&self.db, capacity).await?;
        let fence = leased.first().map_or(0, |job| job.fence);

        let delta_key = StorageKey::delta(job_id, fence);
        let row = db::delta::NewDelta {
            delta_id,
            job_id,
            base_digest: &self.base_digest,
            storage_key: delta_key.as_str(),
            size_bytes: i64::try_from(bytes.len())?,
            sha256: &data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)),
        };
        self.storage.write(&delta_key, bytes).await?;
        let handle = Handle::try_from(format!("c-{number}"))?;
        let mut tx = self.db.begin().await?;
        let words = ConceptWords { modifier_token: Some(token.clone()), class_noun: noun };
        let labels = Labels::default();
        db::concept::create(&mut *tx, ProjectId::DEFAULT, concept_id, &handle, &words, &labels)
            .await?;
        anyhow::ensure!(db::job::succeed(&mut *tx, job_id, fence).await?, "the lease is lost");
        db::delta::record(&mut *tx, row).await?;
        db::delta::record_concepts(&mut *tx, delta_id, &[concept_id]).await?;
        db::promotion::promote(&mut *tx, &[concept_id], delta_id, Promoter::Job, false).await?;
        tx.commit().await?;
        Ok(Concept { token: token.as_str().to_owned(), delta_key })
    }

    /// The base model's matrices and a token row, moved at random.
    fn delta(&self, number: u64, token: &ModifierToken) -> anyhow::Result<Delta> {
        let mut matrices = BTreeMap::new();
        for (index, (name, matrix)) in self.base.iter().enumerate() {
            let values: Vec<f32> = matrix.flatten_all()?.to_vec1()?;
            let spread = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
            let moved = normals(number, index as u64, values.len());
            let moved = values.iter().zip(moved).map(|(v, n)| v + DEVIATION * spread * n).collect();
            matrices.insert(name.clone(), Tensor::from_vec(moved, matrix.dims(), matrix.device())?);
        }
        let row = normals(number, u64::MAX, self.text_dim);
        Ok(Delta {
            base_digest: self.base_digest.clone(),
            concepts: vec![DeltaConcept {
                words: ConceptWords {
                    modifier_token: Some(token.clone()),
                    class_noun: ClassNoun::try_from("dog".to_owned())?,
                },
                embedding_row: Some(row.into_iter().map(|n| 0.02 * n).collect()),
                initializer_token: None,
            }],
            weights: DeltaWeights::Dense(matrices),
            metadata: BTreeMap::new(),
        })
    }
}

fn normals(seed: u64, index: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Random::new(seed, Purpose::InitialLatents, index, 0).normals(&mut values);
    values
}
