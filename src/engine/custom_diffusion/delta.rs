//! A delta: what a training learned or a merge computed, as a value and as a file.
//!
//! The file is safetensors. A dense delta has the trained matrices under their diffusers names (`….attn2.to_k.weight`),
//! in f16, so that `unet.load_state_dict(file, strict=False)` applies it; a factorised one has the shared `P` and one
//! `E` per matrix, in f32. Embedding rows lie under `modifier_token.<rex>`. The header's metadata says which base model the
//! delta belongs to and which concepts it holds.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::engine::base_model::BaseModel;
use crate::engine::custom_diffusion::concept::DeltaConcept;
use crate::engine::custom_diffusion::file::{Reader, TOKEN_PREFIX, Writer};
use crate::engine::error::{EngineError, Result};
use crate::engine::ops;
use crate::engine::unet::CrossAttentionKv;
use crate::engine::weights::WeightFiles;

/// What the format is called in messages, and in the header with its version.
const WHAT: &str = "a delta file";
const FORMAT: &str = "vstar-delta-1";
/// Names of a factorised delta's parts: the shared `P`, and what follows a matrix's name for its `E`.
const SHARED: &str = "low_rank.p";
const FACTOR: &str = ".low_rank.e";

/// Changed cross-attention projections and the concepts they hold.
#[derive(Clone, Debug)]
pub struct Delta {
    /// [`BaseModel::digest`] of the model that it was learned on.
    pub base_digest: String,
    pub concepts: Vec<DeltaConcept>,
    pub weights: DeltaWeights,
    /// Further facts, such as the seed.
    pub metadata: BTreeMap<String, String>,
}

/// The weights of a delta; matrices are f32, on the CPU, by checkpoint name such as `….attn2.to_k.weight`.
#[derive(Clone, Debug)]
pub enum DeltaWeights {
    /// Whole matrices `W`, `(inner, text_dim)`, in place of the base model's.
    Dense(BTreeMap<String, Tensor>),
    /// `ΔW = E P` with `P` `(rank, text_dim)` shared by all matrices and `E` `(inner, rank)` each.
    LowRank { p: Tensor, e: BTreeMap<String, Tensor> },
}

impl DeltaWeights {
    /// `W` of every matrix, f32 on the CPU.
    ///
    /// - `base`: the base model's own, by name, on any device
    ///
    /// # Errors
    /// [`EngineError::WeightMissing`] and [`EngineError::WeightShape`] if the weights do not fit them.
    pub fn densify(&self, base: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
        let (p, e) = match self {
            Self::Dense(matrices) => return Ok(matrices.clone()),
            Self::LowRank { p, e } => (p, e),
        };
        let mut matrices = BTreeMap::new();
        for (name, weight) in base {
            let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            let factor = e.get(name).ok_or_else(|| EngineError::WeightMissing {
                name: name.clone(),
                file: "the delta".into(),
            })?;
            check_shape(name, factor, &[weight.dim(0)?, p.dim(0)?])?;
            matrices.insert(name.clone(), (weight + ops::matmul(factor, p)?)?);
        }
        Ok(matrices)
    }
}

impl Delta {
    /// Checks that the delta belongs to `base` and fits its layers.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for another base model, [`EngineError::WeightMissing`] and
    /// [`EngineError::WeightShape`] for matrices that do not fit.
    pub fn check_base(&self, base: &BaseModel) -> Result<()> {
        if self.base_digest != base.digest {
            return Err(EngineError::InvalidInput(format!(
                "the delta belongs to base model {}, this is {}",
                short(&self.base_digest),
                short(&base.digest)
            )));
        }
        let text_dim = base.prompt_encoder.hidden_size();
        let mut expected = BTreeMap::new();
        for layer in base.unet.cross_attention() {
            expected.insert(format!("{}.to_k.weight", layer.name), layer.to_k.dim(0)?);
            expected.insert(format!("{}.to_v.weight", layer.name), layer.to_v.dim(0)?);
        }
        let (matrices, columns) = match &self.weights {
            DeltaWeights::Dense(matrices) => (matrices, text_dim),
            DeltaWeights::LowRank { p, e } => {
                let rank = p.dim(0)?;
                check_shape(SHARED, p, &[rank, text_dim])?;
                (e, rank)
            }
        };
        for (name, inner) in &expected {
            let matrix = matrices.get(name).ok_or_else(|| EngineError::WeightMissing {
                name: name.clone(),
                file: "the delta".into(),
            })?;
            check_shape(name, matrix, &[*inner, columns])?;
        }
        if let Some(name) = matrices.keys().find(|name| !expected.contains_key(*name)) {
            let text = format!("the delta's `{name}` is not a matrix of the base model");
            return Err(EngineError::InvalidInput(text));
        }
        for concept in &self.concepts {
            if let (Some(token), Some(row)) =
                (&concept.words.modifier_token, &concept.embedding_row)
                && row.len() != text_dim
            {
                let (expected, actual) = (vec![text_dim], vec![row.len()]);
                return Err(EngineError::WeightShape {
                    name: format!("{TOKEN_PREFIX}{token}"),
                    expected,
                    actual,
                });
            }
        }
        Ok(())
    }

    /// The changed matrices `W` themselves, f32 on the CPU: a factorised delta is added to the base model's.
    pub fn densify(&self, base: &BaseModel) -> Result<BTreeMap<String, Tensor>> {
        self.check_base(base)?;
        self.weights.densify(&kv_weights(base.unet.cross_attention()))
    }

    /// How the delta changes the keys and values of text features: `C ΔWᵀ`, `(rows, Σ 2·inner)`, f32 on the CPU, each
    /// layer's keys before its values.
    ///
    /// - `features`: `C`, `(rows, text_dim)`
    pub fn change(&self, base: &BaseModel, features: &Tensor) -> Result<Tensor> {
        self.check_base(base)?;
        let features = features.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let shared = match &self.weights {
            DeltaWeights::Dense(_) => None,
            DeltaWeights::LowRank { p, .. } => Some(ops::matmul(&features, &p.t()?)?),
        };
        let mut changes = Vec::new();
        for layer in base.unet.cross_attention() {
            for (part, weight) in [("to_k", &layer.to_k), ("to_v", &layer.to_v)] {
                let name = format!("{}.{part}.weight", layer.name);
                changes.push(match (&self.weights, &shared) {
                    (DeltaWeights::LowRank { e, .. }, Some(shared)) => {
                        ops::matmul(shared, &e[&name].t()?)?
                    }
                    (
                        DeltaWeights::Dense(matrices) | DeltaWeights::LowRank { e: matrices, .. },
                        _,
                    ) => {
                        let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                        ops::matmul(&features, &(&matrices[&name] - weight)?.t()?)?
                    }
                });
            }
        }
        Ok(Tensor::cat(&changes, 1)?)
    }

    /// Memory that the weights take.
    pub fn size_bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        match &self.weights {
            DeltaWeights::Dense(matrices) => matrices.values().map(bytes).sum(),
            DeltaWeights::LowRank { p, e } => bytes(p) + e.values().map(bytes).sum::<usize>(),
        }
    }

    /// The same delta with whole matrices.
    ///
    /// - `base`: as for [`DeltaWeights::densify`]
    pub fn to_dense(&self, base: &BTreeMap<String, Tensor>) -> Result<Self> {
        Ok(Self { weights: DeltaWeights::Dense(self.weights.densify(base)?), ..self.clone() })
    }

    /// Writes the file; the same delta gives the same bytes.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let mut metadata = self.metadata.clone();
        metadata.insert("base_digest".into(), self.base_digest.clone());
        let mut file = Writer::new(WHAT, FORMAT, metadata);
        match &self.weights {
            DeltaWeights::Dense(matrices) => {
                for (name, matrix) in matrices {
                    file.f16(name, matrix)?;
                }
            }
            DeltaWeights::LowRank { p, e } => {
                file.f32(SHARED, p)?;
                for (name, factor) in e {
                    file.f32(format!("{name}{FACTOR}"), factor)?;
                }
            }
        }
        file.concepts(&self.concepts)?;
        file.finish()
    }

    /// Reads a file that [`Self::to_safetensors`] wrote.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] that says what is wrong with the file: cut short, not a delta, a value that is
    /// not finite, a concept without its row.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let mut file = Reader::open(WHAT, FORMAT, bytes)?;
        let base_digest = file.take_metadata("base_digest")?;
        let concepts = file.take_concepts()?;
        let shared = file.tensors.remove(SHARED);
        let (mut matrices, mut factors) = (BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in std::mem::take(&mut file.tensors) {
            match name.strip_suffix(FACTOR) {
                Some(of_matrix) => factors.insert(of_matrix.to_owned(), tensor),
                None => matrices.insert(name, tensor),
            };
        }
        let weights = match shared {
            None if factors.is_empty() => DeltaWeights::Dense(matrices),
            Some(p) if matrices.is_empty() => DeltaWeights::LowRank { p, e: factors },
            Some(_) | None => return Err(file.invalid(&"it mixes whole and factorised matrices")),
        };
        Ok(Self { base_digest, concepts, weights, metadata: file.metadata })
    }
}

/// `to_k` and `to_v` of cross-attention layers by checkpoint name.
pub fn kv_weights(layers: &[CrossAttentionKv]) -> BTreeMap<String, Tensor> {
    let of_layer = |layer: &CrossAttentionKv| {
        let name = |part| format!("{}.{part}.weight", layer.name);
        [(name("to_k"), layer.to_k.clone()), (name("to_v"), layer.to_v.clone())]
    };
    layers.iter().flat_map(of_layer).collect()
}

/// The same as [`kv_weights`], in f32 on the CPU, read from a base model's folder without loading the model.
pub fn read_kv_weights(base_model: &Path) -> Result<BTreeMap<String, Tensor>> {
    let (folder, stem) = (base_model.join("unet"), "diffusion_pytorch_model");
    let files = WeightFiles::open(&folder, stem, &Device::Cpu, DType::F32)?;
    files.ending_in(&[".attn2.to_k.weight", ".attn2.to_v.weight"])
}

fn check_shape(name: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() == expected {
        return Ok(());
    }
    let (expected, actual) = (expected.to_vec(), tensor.dims().to_vec());
    Err(EngineError::WeightShape { name: name.to_owned(), expected, actual })
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::concept::{ClassNoun, ConceptWords, ModifierToken};

    fn delta() -> Delta {
        let class_noun = ClassNoun::try_from("dog".to_owned()).unwrap();
        let matrix = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap().reshape((3, 4)).unwrap();
        let token = ModifierToken::try_from("<rex>".to_owned()).unwrap();
        Delta {
            base_digest: "abc".into(),
            concepts: vec![DeltaConcept {
                words: ConceptWords { modifier_token: Some(token), class_noun },
                embedding_row: Some(vec![0.1, 0.2, 0.3, 0.4]),
                initializer_token: Some("ktn".into()),
            }],
            weights: DeltaWeights::Dense(BTreeMap::from([("a.attn2.to_k.weight".into(), matrix)])),
            metadata: BTreeMap::from([("seed".into(), "7".into()), ("note".into(), "x".into())]),
        }
    }

    #[test]
    fn a_written_delta_reads_back() {
        let bytes = delta().to_safetensors().unwrap();

        let read = Delta::from_safetensors(&bytes).unwrap();

        assert_eq!(read.concepts, delta().concepts);
        assert_eq!(read.base_digest, "abc");
        assert_eq!(read.metadata, delta().metadata);
        let DeltaWeights::Dense(matrices) = read.weights else { panic!("dense") };
        assert_eq!(
            matrices["a.attn2.to_k.weight"].to_vec2::<f32>().unwrap()[2],
            [8.0, 9.0, 10.0, 11.0]
        );
        assert_eq!(bytes, delta().to_safetensors().unwrap(), "the same delta gives the same bytes");
    }

    #[test]
    fn damaged_files_are_refused_with_the_reason() {
        let bytes = delta().to_safetensors().unwrap();
        let reason = |bytes: &[u8]| Delta::from_safetensors(bytes).unwrap_err().to_string();

        assert!(reason(&bytes[..bytes.len() - 1]).contains("not a delta file"));
        assert!(reason(b"not even a header").contains("not a delta file"));
        let foreign = Writer::new(WHAT, "vstar-pack-1", BTreeMap::new()).finish().unwrap();
        assert!(reason(&foreign).contains("format: vstar-delta-1"));
    }

    #[test]
    fn a_value_that_is_not_finite_is_refused() {
        let mut delta = delta();
        let mut bytes = delta.to_safetensors().unwrap();
        let last = bytes.len() - 2; // of the matrix
        bytes[last..].copy_from_slice(&half::f16::NAN.to_le_bytes());

        let read = Delta::from_safetensors(&bytes).unwrap_err().to_string();
        delta.concepts[0].embedding_row = Some(vec![f32::NAN; 4]);
        let written = delta.to_safetensors().unwrap_err().to_string();

        assert!(read.contains("to_k.weight` has values that are not finite"), "{read}");
        assert!(
            written.contains("modifier_token.<rex>` has values that are not finite"),
            "{written}"
        );
    }

    #[test]
    fn a_value_beyond_f16_is_refused_and_named() {
        let mut delta = delta();
        if let DeltaWeights::Dense(matrices) = &mut delta.weights {
            for matrix in matrices.values_mut() {
                *matrix = (&*matrix * 1e5).unwrap();
            }
        }

        let error = delta.to_safetensors().unwrap_err().to_string();

        assert!(error.contains("to_k.weight` has the value") && error.contains("65504"), "{error}");
    }

    #[test]
    fn a_row_that_no_concept_names_is_refused() {
        let mut file = Writer::new(WHAT, FORMAT, BTreeMap::new());
        file.concepts(&[]).unwrap();
        file.f32("modifier_token.<rex>", &Tensor::ones(4, DType::F32, &Device::Cpu).unwrap())
            .unwrap();
        file.metadata.insert("base_digest".into(), "abc".into());

        let error = Delta::from_safetensors(&file.finish().unwrap()).unwrap_err().to_string();

        assert!(error.contains("a row for <rex>"), "{error}");
    }
}
