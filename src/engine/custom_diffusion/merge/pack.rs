//! Merge packs: what a merge needs of a delta, computed once and a few megabytes small at most.
//!
//! The constraints of a merge come from prompts. Every concept's name must get the keys and values that its own delta
//! gives it. In some templates the name is alone; these are constrained up to the end token and at some of the padding,
//! which the UNet attends to as well. In others it follows another thing, since a name's features depend on the words
//! before it. These things are ordinary nouns, not the other concepts of a request, so a pack depends on its delta
//! alone (ADR 0017). Measured on a dog and a gate, prompts outside of the templates come as close as with each other's
//! names (error 0.66 against 0.72). The pack also has the class nouns alone, to protect them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};

use super::closed_form::SolvedRows;
use super::prompt_rows::PromptRows;
use super::statistics::RegularizationStatistics;
use crate::engine::base_model::BaseModel;
use crate::engine::custom_diffusion::concept::DeltaConcept;
use crate::engine::custom_diffusion::delta::Delta;
use crate::engine::custom_diffusion::file::{Reader, Writer};
use crate::engine::error::{EngineError, Result};

/// What the format is called in messages, and in the header with its version.
const WHAT: &str = "a merge pack file";
const FORMAT: &str = "vstar-merge-pack-1";
/// Templates of a concept alone: what comes before its name.
const BEFORE: [&str; 3] = ["", "a ", "photo of a "];
/// Templates of two things: what comes before the other thing's name, and between the two names.
const BEFORE_AND_BETWEEN: [(&str, &str); 3] =
    [("a ", " and a "), ("photo of a ", " next to a "), ("a ", " in front of a ")];
/// The other things.
const NEIGHBOURS: [&str; 2] = ["cat", "house"];
/// Padding positions after the end token that are constrained as well.
const PADDING_ROWS: usize = 2;

/// Rows of text features, how a delta changes their keys and values, and rows that should stay as they are.
pub struct MergePack {
    /// The base model of the delta, by [`BaseModel::digest`].
    pub base_digest: String,
    pub concepts: Vec<DeltaConcept>,
    /// `C`, `(rows, text_dim)`, f32.
    features: Tensor,
    /// `Eᵀ = C ΔWᵀ`, `(rows, Σ 2·inner)`, f32, keys before values in the order of the cross-attention layers.
    changes: Tensor,
    /// Features of the class nouns without their modifier tokens, f32; none if the nouns themselves are taught.
    nouns: Tensor,
    /// For the captions of the last merge.
    solved: Mutex<Option<Arc<SolvedPack>>>,
}

/// A pack's rows over one set of captions.
pub(super) struct SolvedPack {
    captions_digest: String,
    pub(super) targets: SolvedRows,
    pub(super) nouns: SolvedRows,
}

impl MergePack {
    /// Encodes the prompts of a delta's concepts, and what the delta makes of them, both with the modifier tokens' rows at
    /// a strength: what a prompt is encoded with is what must be constrained. How much of the delta's changes a merge
    /// takes is [`PackUse::strength`].
    ///
    /// [`PackUse::strength`]: super::PackUse::strength
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if a concept's name is longer than the model's prompts, or the delta is not of
    /// this model.
    pub fn build(base: &BaseModel, delta: &Delta, strength: f64) -> Result<Self> {
        let mut targets = PromptRows::new(base, delta, strength)?;
        let mut nouns = PromptRows::new(base, delta, strength)?;
        for (index, learned) in delta.concepts.iter().enumerate() {
            let name = learned.words.in_prompt();
            let known = targets.len();
            for before in BEFORE {
                targets.add(before, &name, 1 + PADDING_ROWS)?;
            }
            if targets.len() == known {
                let limit = base.prompt_encoder.max_length();
                let text = format!(
                    "the name `{name}` is longer than the model's prompts of {limit} tokens"
                );
                return Err(EngineError::InvalidInput(text));
            }
            let others = delta.concepts.iter().enumerate();
            let others = others.filter(|(other, _)| *other != index).map(|(_, other)| other);
            let others =
                others.map(|other| other.words.in_prompt()).chain(NEIGHBOURS.map(str::to_owned));
            for other in others {
                for (before, between) in BEFORE_AND_BETWEEN {
                    targets.add(&format!("{before}{other}{between}"), &name, 0)?;
                }
            }
            if learned.words.modifier_token.is_some() {
                for before in BEFORE {
                    nouns.add(before, learned.words.class_noun.as_str(), 1)?;
                }
            }
        }
        let features = targets.into_features()?;
        // As the file has them, so that a merge is the same from either.
        let changes = delta.change(base, &features)?.to_dtype(DType::F16)?.to_dtype(DType::F32)?;
        let nouns = nouns.into_features()?;
        let (base_digest, concepts) = (base.digest.clone(), delta.concepts.clone());
        Ok(Self { base_digest, concepts, features, changes, nouns, solved: Mutex::default() })
    }

    /// Builds a pack from given parts, for measurements.
    ///
    /// - `features`, `nouns`: `(rows, text_dim)`, f32
    /// - `changes`: `(rows, Σ 2·inner)`, f32
    pub fn of_features(features: Tensor, changes: Tensor, nouns: Tensor) -> Self {
        let (base_digest, concepts, solved) = (String::new(), Vec::new(), Mutex::default());
        Self { base_digest, concepts, features, changes, nouns, solved }
    }

    /// Writes the file; the same pack gives the same bytes.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let metadata = BTreeMap::from([("base_digest".to_owned(), self.base_digest.clone())]);
        let mut file = Writer::new(WHAT, FORMAT, metadata);
        file.f32("features", &self.features)?;
        file.f16("changes", &self.changes)?;
        file.f32("class_nouns", &self.nouns)?;
        file.concepts(&self.concepts)?;
        file.finish()
    }

    /// Reads a file that [`Self::to_safetensors`] wrote.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for anything else.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let mut file = Reader::open(WHAT, FORMAT, bytes)?;
        let pack = Self {
            base_digest: file.take_metadata("base_digest")?,
            concepts: file.take_concepts()?,
            features: file.take_tensor("features")?,
            changes: file.take_tensor("changes")?,
            nouns: file.take_tensor("class_nouns")?,
            solved: Mutex::default(),
        };
        let (rows, width) = pack.features.dims2()?;
        if pack.changes.dims2()?.0 != rows || pack.nouns.dims2()?.1 != width {
            return Err(file.invalid(&"its parts are of different sizes"));
        }
        Ok(pack)
    }

    /// Whether the pack differs by strength, because strength moves a modifier token's embedding row (ADR 0018).
    pub fn depends_on_strength(&self) -> bool {
        self.concepts
            .iter()
            .any(|one| one.embedding_row.is_some() && one.initializer_token.is_some())
    }

    /// Memory that the pack takes, with its rows solved.
    pub fn size_bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        // Solved are the rows in double precision, twice.
        5 * (bytes(&self.features) + bytes(&self.nouns)) + bytes(&self.changes)
    }

    /// Features of all its concepts, `(rows, text_dim)`.
    pub(super) fn features(&self) -> &Tensor {
        &self.features
    }

    pub(super) fn changes(&self) -> &Tensor {
        &self.changes
    }

    /// The rows over the captions of `statistics`, which are remembered.
    pub(super) fn solved(&self, statistics: &RegularizationStatistics) -> Result<Arc<SolvedPack>> {
        let mut solved = self.solved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*solved
            && known.captions_digest == statistics.captions_digest
        {
            return Ok(known.clone());
        }
        let fresh = Arc::new(SolvedPack {
            captions_digest: statistics.captions_digest.clone(),
            targets: SolvedRows::new(&statistics.regularization, &self.features)?,
            nouns: SolvedRows::new(&statistics.regularization, &self.nouns)?,
        });
        *solved = Some(fresh.clone());
        Ok(fresh)
    }
}
