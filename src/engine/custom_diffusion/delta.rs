//! A delta: what a training learnt or a merge computed, as a value and as a file.
//!
//! The file is safetensors. A dense delta has the trained matrices under their diffusers names (`….attn2.to_k.weight`),
//! in f16, so that `unet.load_state_dict(file, strict=False)` applies it; a factorised one has the shared `P` and one
//! `E` per matrix, in f32. Token rows lie under `modifier_token.<rex>`. The header's metadata says which base model the
//! delta belongs to and which concepts it holds.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::domain::concept::ModifierToken;
use crate::engine::base_model::BaseModel;
use crate::engine::unet::CrossAttentionKv;
use crate::engine::{EngineError, Result, ops};

/// What the format is called in the header, with its version.
const FORMAT: &str = "vstar-delta-1";
const TOKEN_PREFIX: &str = "modifier_token.";
/// Names of a factorised delta's parts: the shared `P`, and what follows a matrix's name for its `E`.
const SHARED: &str = "low_rank.p";
const FACTOR: &str = ".low_rank.e";

/// Changed cross-attention projections and the concepts they hold.
#[derive(Clone, Debug)]
pub struct Delta {
    /// [`BaseModel::digest`] of the model that it was learnt on.
    pub base_digest: String,
    pub concepts: Vec<DeltaConcept>,
    pub weights: DeltaWeights,
    /// What else is worth knowing, such as the seed.
    pub metadata: BTreeMap<String, String>,
}

/// One concept of a delta.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaConcept {
    /// `None` if the delta teaches the class noun itself.
    pub modifier_token: Option<ModifierToken>,
    /// The modifier token's embedding, `(text_dim,)`.
    pub token_row: Option<Vec<f32>>,
    pub initializer_token: Option<String>,
    pub class_noun: String,
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
    /// `W` of every matrix, f32 on the CPU, over the base model's `layers`, whose shapes the weights have.
    pub fn densify(&self, layers: &[CrossAttentionKv]) -> Result<BTreeMap<String, Tensor>> {
        let (p, e) = match self {
            Self::Dense(matrices) => return Ok(matrices.clone()),
            Self::LowRank { p, e } => (p, e),
        };
        let mut matrices = BTreeMap::new();
        for layer in layers {
            for (part, weight) in [("to_k", &layer.to_k), ("to_v", &layer.to_v)] {
                let name = format!("{}.{part}.weight", layer.name);
                let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                let dense = (weight + ops::matmul(&e[&name], p)?)?;
                matrices.insert(name, dense);
            }
        }
        Ok(matrices)
    }
}

/// The part of a concept that is kept in the header.
#[derive(Serialize, Deserialize)]
struct ConceptHeader {
    modifier_token: Option<ModifierToken>,
    initializer_token: Option<String>,
    class_noun: String,
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
        let text_dim = base.text_encoder.hidden_size();
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
            if let (Some(token), Some(row)) = (&concept.modifier_token, &concept.token_row)
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
        self.weights.densify(base.unet.cross_attention())
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

    /// The same delta with whole matrices.
    pub fn to_dense(&self, base: &BaseModel) -> Result<Self> {
        Ok(Self { weights: DeltaWeights::Dense(self.densify(base)?), ..self.clone() })
    }

    /// Writes the file; the same delta gives the same bytes.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
        match &self.weights {
            DeltaWeights::Dense(matrices) => {
                for (name, matrix) in matrices {
                    tensors.insert(
                        name.clone(),
                        (Dtype::F16, matrix.dims().to_vec(), f16_bytes(name, matrix)?),
                    );
                }
            }
            DeltaWeights::LowRank { p, e } => {
                tensors.insert(
                    SHARED.to_owned(),
                    (Dtype::F32, p.dims().to_vec(), f32_bytes(SHARED, p)?),
                );
                for (name, factor) in e {
                    tensors.insert(
                        format!("{name}{FACTOR}"),
                        (Dtype::F32, factor.dims().to_vec(), f32_bytes(name, factor)?),
                    );
                }
            }
        }
        for concept in &self.concepts {
            if let (Some(token), Some(row)) = (&concept.modifier_token, &concept.token_row) {
                let name = format!("{TOKEN_PREFIX}{token}");
                let bytes = f32_bytes(&name, &Tensor::new(row.as_slice(), &Device::Cpu)?)?;
                tensors.insert(name, (Dtype::F32, vec![row.len()], bytes));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(unwritable)?;
        let bytes = safetensors::serialize(views, None).map_err(unwritable)?;
        with_metadata(&bytes, &self.header()?)
    }

    /// Reads a file that [`Self::to_safetensors`] wrote.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] that says what is wrong with the file: cut short, not a delta, a value that is
    /// not finite, a concept without its row.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let mut metadata: BTreeMap<String, String> =
            header.metadata().clone().unwrap_or_default().into_iter().collect();
        if metadata.remove("format").as_deref() != Some(FORMAT) {
            return Err(invalid(format!("its header does not say `format: {FORMAT}`")));
        }
        let base_digest = metadata
            .remove("base_digest")
            .ok_or_else(|| invalid("its header names no base_digest".into()))?;
        let headers = metadata
            .remove("concepts")
            .ok_or_else(|| invalid("its header names no concepts".into()))?;
        let headers: Vec<ConceptHeader> = serde_json::from_str(&headers)
            .map_err(|error| invalid(format!("its header's concepts do not parse: {error}")))?;

        let mut rows = HashMap::new();
        let mut matrices = BTreeMap::new();
        let mut factors = BTreeMap::new();
        let mut shared = None;
        for (name, view) in file.tensors() {
            let tensor = read_tensor(&name, &view)?;
            if let Some(token) = name.strip_prefix(TOKEN_PREFIX) {
                rows.insert(token.to_owned(), tensor.flatten_all()?.to_vec1::<f32>()?);
            } else if name == SHARED {
                shared = Some(tensor);
            } else if let Some(name) = name.strip_suffix(FACTOR) {
                factors.insert(name.to_owned(), tensor);
            } else {
                matrices.insert(name, tensor);
            }
        }
        let weights = match shared {
            None if factors.is_empty() => DeltaWeights::Dense(matrices),
            Some(p) if matrices.is_empty() => DeltaWeights::LowRank { p, e: factors },
            Some(_) | None => return Err(invalid("it mixes whole and factorised matrices".into())),
        };
        let concepts = headers
            .into_iter()
            .map(|header| {
                let token_row = match &header.modifier_token {
                    None => None,
                    Some(token) => Some(rows.remove(token.as_str()).ok_or_else(|| {
                        invalid(format!("it has no row for modifier token {token}"))
                    })?),
                };
                Ok(DeltaConcept {
                    modifier_token: header.modifier_token,
                    token_row,
                    initializer_token: header.initializer_token,
                    class_noun: header.class_noun,
                })
            })
            .collect::<Result<_>>()?;
        if let Some(token) = rows.keys().min() {
            return Err(invalid(format!(
                "it has a row for {token}, which none of its concepts names"
            )));
        }
        Ok(Self { base_digest, concepts, weights, metadata })
    }

    fn header(&self) -> Result<BTreeMap<String, String>> {
        let concepts: Vec<ConceptHeader> = self
            .concepts
            .iter()
            .map(|concept| ConceptHeader {
                modifier_token: concept.modifier_token.clone(),
                initializer_token: concept.initializer_token.clone(),
                class_noun: concept.class_noun.clone(),
            })
            .collect();
        let mut header = self.metadata.clone();
        header.insert("format".into(), FORMAT.into());
        header.insert("base_digest".into(), self.base_digest.clone());
        header.insert(
            "concepts".into(),
            serde_json::to_string(&concepts).map_err(|e| invalid(e.to_string()))?,
        );
        Ok(header)
    }
}

/// Puts sorted metadata into the header: the `safetensors` crate writes it in the order of a hash map, which differs
/// from run to run.
fn with_metadata(bytes: &[u8], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let split =
        |at: usize| bytes.split_at_checked(at).ok_or_else(|| invalid("it has no header".into()));
    let (length, rest) = split(8)?;
    let length =
        u64::from_le_bytes(length.try_into().map_err(|_| invalid("it has no header".into()))?)
            as usize;
    let (header, data) =
        rest.split_at_checked(length).ok_or_else(|| invalid("it has no header".into()))?;
    let entries: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|error| invalid(error.to_string()))?;
    let mut sorted: BTreeMap<String, serde_json::Value> = entries.into_iter().collect();
    sorted.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut header = serde_json::to_vec(&sorted).map_err(|error| invalid(error.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = Vec::with_capacity(8 + header.len() + data.len());
    out.extend_from_slice(&(header.len() as u64).to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    Ok(out)
}

fn read_tensor(name: &str, view: &TensorView<'_>) -> Result<Tensor> {
    let values: Vec<f32> = match view.dtype() {
        Dtype::F16 => view
            .data()
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        Dtype::F32 => view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        other => return Err(invalid(format!("`{name}` is {other:?}, expected F16 or F32"))),
    };
    if values.iter().any(|value| !value.is_finite()) {
        return Err(invalid(format!("`{name}` has values that are not finite")));
    }
    Ok(Tensor::from_vec(values, view.shape(), &Device::Cpu)?)
}

/// # Errors
/// [`EngineError::InvalidInput`] for a value that f16 does not hold.
fn f16_bytes(name: &str, tensor: &Tensor) -> Result<Vec<u8>> {
    let values = finite_values(name, tensor)?;
    let most = f32::from(half::f16::MAX);
    if let Some(value) = values.iter().find(|value| value.abs() > most) {
        return Err(EngineError::InvalidInput(format!(
            "the delta cannot be written: `{name}` has the value {value}, and f16 ends at {most}"
        )));
    }
    Ok(values.into_iter().flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect())
}

fn f32_bytes(name: &str, tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(finite_values(name, tensor)?.into_iter().flat_map(f32::to_le_bytes).collect())
}

fn finite_values(name: &str, tensor: &Tensor) -> Result<Vec<f32>> {
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    if values.iter().all(|value| value.is_finite()) {
        return Ok(values);
    }
    let text = format!("the delta cannot be written: `{name}` has values that are not finite");
    Err(EngineError::InvalidInput(text))
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

fn invalid(reason: String) -> EngineError {
    EngineError::InvalidInput(format!("this is not a delta file: {reason}"))
}

fn unreadable(error: safetensors::SafeTensorError) -> EngineError {
    invalid(error.to_string())
}

fn unwritable(error: safetensors::SafeTensorError) -> EngineError {
    EngineError::InvalidInput(format!("the delta cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta() -> Delta {
        let matrix = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap().reshape((3, 4)).unwrap();
        let token = ModifierToken::try_from("<rex>".to_owned()).unwrap();
        Delta {
            base_digest: "abc".into(),
            concepts: vec![DeltaConcept {
                modifier_token: Some(token),
                token_row: Some(vec![0.1, 0.2, 0.3, 0.4]),
                initializer_token: Some("ktn".into()),
                class_noun: "dog".into(),
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
        let foreign = safetensors::serialize(Vec::<(String, TensorView<'_>)>::new(), None).unwrap();
        assert!(reason(&foreign).contains("format: vstar-delta-1"));
    }

    #[test]
    fn a_value_that_is_not_finite_is_refused() {
        let mut delta = delta();
        let mut bytes = delta.to_safetensors().unwrap();
        let last = bytes.len() - 2; // of the matrix
        bytes[last..].copy_from_slice(&half::f16::NAN.to_le_bytes());

        let read = Delta::from_safetensors(&bytes).unwrap_err().to_string();
        delta.concepts[0].token_row = Some(vec![f32::NAN; 4]);
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
        let mut delta = delta();
        let bytes = delta.to_safetensors().unwrap();
        delta.concepts.clear();
        let without = delta.to_safetensors().unwrap();
        // The tensors of one file under the concepts of the other.
        let header = |bytes: &[u8]| -> serde_json::Value {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            serde_json::from_slice(&bytes[8..8 + length]).unwrap()
        };
        let concepts = header(&without)["__metadata__"].clone();
        let metadata: BTreeMap<String, String> = serde_json::from_value(concepts).unwrap();

        let error =
            Delta::from_safetensors(&with_metadata(&bytes, &metadata).unwrap()).unwrap_err();

        assert!(error.to_string().contains("a row for <rex>"), "{error}");
    }
}
