//! A delta: what a training learned or a merge computed, as a value and as a file.
//!
//! The file is safetensors. A dense delta has the trained matrices under their diffusers names (`….attn2.to_k.weight`),
//! in f16 (ADR 0001), so that `unet.load_state_dict(file, strict=False)` applies it; a factorized one has `E` and `P` of each
//! matrix, or one `P` that all share, in f32. Matrices that are not there are the base model's. Embedding rows lie under
//! `modifier_token.<rex>`. The header's metadata says which base model the delta belongs to and which concepts it holds.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::delta_weights::{DeltaWeights, Factors, Kind, SHARED, kv_weights};
use crate::engine::base_model::BaseModel;
use crate::engine::custom_diffusion::concept::DeltaConcept;
use crate::engine::custom_diffusion::file::{Reader, TOKEN_PREFIX, Writer};
use crate::engine::error::{EngineError, Result};
use crate::engine::weights::WeightFiles;

/// What the format is called in messages.
const WHAT: &str = "a delta file";
/// The header's name of the format with its version. Only what a program of the first version could not read has the
/// second: deltas without keys or without values, and factors of each matrix's own.
const FORMATS: [&str; 2] = ["vstar-delta-1", "vstar-delta-2"];
/// What follows a matrix's name for its factors.
const E: &str = ".low_rank.e";
const P: &str = ".low_rank.p";

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
        self.weights.check(base.unet.cross_attention(), text_dim)?;
        let has_rows = self.concepts.iter().any(|concept| concept.embedding_row.is_some());
        if self.weights.names().is_empty() && !has_rows {
            let text = "the delta has neither matrices nor embedding rows: it would change nothing";
            return Err(EngineError::InvalidInput(text.to_owned()));
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

    /// The base model's own key and value projections by name, on the CPU.
    ///
    /// # Errors
    /// Those of [`Self::check_base`].
    pub fn base_matrices(&self, base: &BaseModel) -> Result<BTreeMap<String, Tensor>> {
        self.check_base(base)?;
        let weights = kv_weights(base.unet.cross_attention()).into_iter();
        weights.map(|(name, weight)| Ok((name, weight.to_device(&Device::Cpu)?))).collect()
    }

    /// The changed matrices `W` themselves, f32 on the CPU: a factorized delta is added to the base model's.
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
        let mut changes = Vec::new();
        for layer in base.unet.cross_attention() {
            for kind in Kind::ALL {
                let name = kind.of_layer(&layer.name);
                changes.push(self.weights.change(&name, kind.weight(layer), &features)?);
            }
        }
        Ok(Tensor::cat(&changes, 1)?)
    }

    /// Memory that the weights take.
    pub fn size_bytes(&self) -> usize {
        self.weights.size_bytes()
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
        let is_newer =
            self.weights.is_partial() || matches!(self.weights, DeltaWeights::Factorized(_));
        let mut file = Writer::new(WHAT, FORMATS[usize::from(is_newer)], metadata);
        match &self.weights {
            DeltaWeights::Dense(matrices) => {
                for (name, matrix) in matrices {
                    file.f16(name, matrix)?;
                }
            }
            DeltaWeights::LowRank { p, e } => {
                file.f32(SHARED, p)?;
                for (name, factor) in e {
                    file.f32(format!("{name}{E}"), factor)?;
                }
            }
            DeltaWeights::Factorized(factors) => {
                for (name, Factors { e, p }) in factors {
                    file.f32(format!("{name}{E}"), e)?;
                    file.f32(format!("{name}{P}"), p)?;
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
        let (mut file, format) = Reader::open_any(WHAT, &FORMATS, bytes)?;
        let base_digest = file.take_metadata("base_digest")?;
        let concepts = file.take_concepts()?;
        let weights = read_weights(&mut file)?;
        if format == FORMATS[0] && weights.is_partial() {
            return Err(file.invalid(&"it has no key projections or no value projections"));
        }
        Ok(Self { base_digest, concepts, weights, metadata: file.metadata })
    }
}

fn read_weights(file: &mut Reader) -> Result<DeltaWeights> {
    let shared = file.tensors.remove(SHARED);
    let (mut matrices, mut es, mut ps) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (name, tensor) in std::mem::take(&mut file.tensors) {
        match (name.strip_suffix(E), name.strip_suffix(P)) {
            (Some(of_matrix), _) => es.insert(of_matrix.to_owned(), tensor),
            (None, Some(of_matrix)) => ps.insert(of_matrix.to_owned(), tensor),
            (None, None) => matrices.insert(name, tensor),
        };
    }
    if es.is_empty() && ps.is_empty() && shared.is_none() {
        return Ok(DeltaWeights::Dense(matrices));
    }
    if !matrices.is_empty() {
        return Err(file.invalid(&"it mixes whole and factorized matrices"));
    }
    if let Some(p) = shared {
        return match ps.is_empty() {
            true => Ok(DeltaWeights::LowRank { p, e: es }),
            false => Err(file.invalid(&"it mixes a shared factor and factors of each matrix")),
        };
    }
    let mut factors = BTreeMap::new();
    for (name, e) in es {
        let p = ps.remove(&name);
        let p = p.ok_or_else(|| file.invalid(&format_args!("it has no `{name}{P}`")))?;
        factors.insert(name, Factors { e, p });
    }
    match ps.keys().next() {
        Some(name) => Err(file.invalid(&format_args!("it has no `{name}{E}`"))),
        None => Ok(DeltaWeights::Factorized(factors)),
    }
}

/// The same as [`kv_weights`], in f32 on the CPU, read from a base model's folder without loading the model.
pub fn read_kv_weights(base_model: &Path) -> Result<BTreeMap<String, Tensor>> {
    let (folder, stem) = (base_model.join("unet"), "diffusion_pytorch_model");
    let files = WeightFiles::open(&folder, stem, &Device::Cpu, DType::F32)?;
    files.ending_in(&[".attn2.to_k.weight", ".attn2.to_v.weight"])
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
        assert!(reason(&foreign).contains("`format: vstar-delta-1` or `vstar-delta-2`"));
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
        let mut file = Writer::new(WHAT, FORMATS[0], BTreeMap::new());
        file.concepts(&[]).unwrap();
        file.f32("modifier_token.<rex>", &Tensor::ones(4, DType::F32, &Device::Cpu).unwrap())
            .unwrap();
        file.metadata.insert("base_digest".into(), "abc".into());

        let error = Delta::from_safetensors(&file.finish().unwrap()).unwrap_err().to_string();

        assert!(error.contains("a row for <rex>"), "{error}");
    }
}
