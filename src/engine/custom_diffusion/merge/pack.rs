//! Merge packs: what a merge needs of a delta, computed once and a few megabytes small at most.
//!
//! The constraints of a merge come from prompts. Every concept's name must get the keys and values that its own delta
//! gives it. In some templates the name is alone; these are constrained up to the end token and at some of the padding,
//! which the UNet attends to as well. In others it follows another thing, since a name's features depend on the words
//! before it. A hard merge takes the paper's constraints alone: with all of these, equality needs changes so large that
//! images are noise (ADR 0030). These things are ordinary nouns, not the other concepts of a request, so a pack depends on its delta
//! alone (ADR 0017). Measured on a dog and a gate, prompts outside of the templates come as close as with each other's
//! names (error 0.66 against 0.72). The pack also has the class nouns alone, to protect them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::closed_form::SolvedRows;
use super::place::{self, Place};
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
/// The header's entry for where the rows stand.
const PLACES: &str = "places";
/// Templates of a concept alone: what comes before its name, and whether the paper's merge has the template.
const BEFORE: [(&str, bool); 3] = [("", true), ("a ", false), ("photo of a ", true)];
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
    /// Where each row stands; none in files from before this was stored.
    places: Option<Vec<Place>>,
    /// How much of the delta's change at a concept's name is left where the name follows that of another thing: the ratio
    /// of the root mean squares over both kinds of rows. `None` if the places are not known.
    pub(super) kept_after_other: Option<f64>,
    /// Features of the class nouns without their modifier tokens, f32; none if the nouns themselves are taught.
    nouns: Tensor,
    /// For the captions of the last merge.
    solved: Mutex<Option<Arc<SolvedPack>>>,
    /// [`Self::of_paper`], once it was asked for.
    of_paper: OnceLock<Arc<Self>>,
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
            for (before, is_of_paper) in BEFORE {
                let (name_place, end) = if is_of_paper {
                    (Place::Name, Place::End)
                } else {
                    (Place::Other, Place::Other)
                };
                let mut after = vec![end];
                after.extend([Place::Other; PADDING_ROWS]);
                targets.add(before, &name, name_place, &after)?;
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
                    let before = format!("{before}{other}{between}");
                    targets.add(&before, &name, Place::NameAfterOther, &[])?;
                }
            }
            if learned.words.modifier_token.is_some() {
                for (before, _) in BEFORE {
                    let noun = learned.words.class_noun.as_str();
                    nouns.add(before, noun, Place::Other, &[Place::Other])?;
                }
            }
        }
        let (features, places) = targets.into_features()?;
        // As the file has them, so that a merge is the same from either.
        let changes = delta.change(base, &features)?.to_dtype(DType::F16)?.to_dtype(DType::F32)?;
        let (nouns, _) = nouns.into_features()?;
        Ok(Self {
            base_digest: base.digest.clone(),
            concepts: delta.concepts.clone(),
            kept_after_other: kept_after_other(&changes, &places)?,
            places: Some(places),
            ..Self::of_features(features, changes, nouns)
        })
    }

    /// Builds a pack from given parts, for measurements. A hard merge constrains all of its rows.
    ///
    /// - `features`, `nouns`: `(rows, text_dim)`, f32
    /// - `changes`: `(rows, Σ 2·inner)`, f32
    pub fn of_features(features: Tensor, changes: Tensor, nouns: Tensor) -> Self {
        Self {
            base_digest: String::new(),
            concepts: Vec::new(),
            features,
            changes,
            places: None,
            kept_after_other: None,
            nouns,
            solved: Mutex::default(),
            of_paper: OnceLock::new(),
        }
    }

    /// Writes the file; the same pack gives the same bytes.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let mut metadata = BTreeMap::from([("base_digest".to_owned(), self.base_digest.clone())]);
        if let Some(places) = &self.places {
            metadata.insert(PLACES.to_owned(), place::to_letters(places));
        }
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
        let places = match file.metadata.remove(PLACES) {
            None => None,
            Some(letters) => Some(place::from_letters(&letters).ok_or_else(|| {
                file.invalid(&format_args!("its header's {PLACES} are `{letters}`"))
            })?),
        };
        let (features, changes) = (file.take_tensor("features")?, file.take_tensor("changes")?);
        let kept_after_other = match &places {
            None => None,
            Some(places) => kept_after_other(&changes, places)?,
        };
        let pack = Self {
            base_digest: file.take_metadata("base_digest")?,
            concepts: file.take_concepts()?,
            places,
            kept_after_other,
            ..Self::of_features(features, changes, file.take_tensor("class_nouns")?)
        };
        let (rows, width) = pack.features.dims2()?;
        if pack.places.as_ref().is_some_and(|places| places.len() != rows) {
            return Err(
                file.invalid(&format_args!("its header has not one of its {PLACES} per row"))
            );
        }
        if pack.changes.dims2()?.0 != rows || pack.nouns.dims2()?.1 != width {
            return Err(file.invalid(&"its parts are of different sizes"));
        }
        Ok(pack)
    }

    /// The pack with the paper's constraints alone: each concept's name and the end token after it, in two templates. A file
    /// from before rows had places keeps all of its rows.
    pub(super) fn of_paper(self: &Arc<Self>) -> Result<Arc<Self>> {
        let Some(places) = &self.places else { return Ok(self.clone()) };
        if let Some(known) = self.of_paper.get() {
            return Ok(known.clone());
        }
        let rows = (0u32..).zip(places).filter(|(_, place)| place.is_of_paper());
        let rows = Tensor::new(rows.map(|(row, _)| row).collect::<Vec<_>>(), &Device::Cpu)?;
        let features = self.features.index_select(&rows, 0)?;
        let changes = self.changes.index_select(&rows, 0)?;
        let pack = Arc::new(Self {
            base_digest: self.base_digest.clone(),
            concepts: self.concepts.clone(),
            kept_after_other: self.kept_after_other,
            ..Self::of_features(features, changes, self.nouns.clone())
        });
        Ok(self.of_paper.get_or_init(|| pack).clone())
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

/// [`MergePack::kept_after_other`] of rows of changes.
fn kept_after_other(changes: &Tensor, places: &[Place]) -> Result<Option<f64>> {
    let squares = changes.to_dtype(DType::F64)?.sqr()?.sum(1)?.to_vec1::<f64>()?;
    let mean_square = |wanted| {
        let rows = squares.iter().zip(places).filter(|(_, place)| **place == wanted);
        let (sum, count) =
            rows.fold((0.0, 0.0), |(sum, count), (square, _)| (sum + square, count + 1.0));
        sum / count
    };
    let kept = (mean_square(Place::NameAfterOther) / mean_square(Place::Name)).sqrt();
    Ok(Some(kept).filter(|kept| kept.is_finite()))
}
