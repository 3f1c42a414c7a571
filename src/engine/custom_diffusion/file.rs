//! What the files of deltas and their packs have in common: safetensors with a sorted header, and in it the concepts.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::domain::concept::{ClassNoun, ConceptWords, ModifierToken};
use crate::engine::custom_diffusion::concept::DeltaConcept;
use crate::engine::error::{EngineError, Result};

pub(super) const TOKEN_PREFIX: &str = "modifier_token.";

/// The part of a concept that is kept in the header; its row is a tensor.
#[derive(Serialize, Deserialize)]
struct ConceptHeader {
    modifier_token: Option<ModifierToken>,
    initializer_token: Option<String>,
    class_noun: ClassNoun,
}

/// A file being written; the same content gives the same bytes.
pub(super) struct Writer {
    /// What the file is, for messages.
    what: &'static str,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl Writer {
    /// - `format`: what the header says that the file is, with its version
    pub(super) fn new(
        what: &'static str,
        format: &str,
        mut metadata: BTreeMap<String, String>,
    ) -> Self {
        metadata.insert("format".into(), format.into());
        Self { what, tensors: BTreeMap::new(), metadata }
    }

    /// # Errors
    /// [`EngineError::InvalidInput`] for a value that f16 does not hold.
    pub(super) fn f16(&mut self, name: impl Into<String>, tensor: &Tensor) -> Result<()> {
        let name = name.into();
        let values = self.finite_values(&name, tensor)?;
        let most = f32::from(half::f16::MAX);
        if let Some(value) = values.iter().find(|value| value.abs() > most) {
            return Err(EngineError::InvalidInput(format!(
                "{} cannot be written: `{name}` has the value {value}, and f16 ends at {most}",
                self.what
            )));
        }
        let bytes = values.into_iter().flat_map(|value| half::f16::from_f32(value).to_le_bytes());
        self.tensors.insert(name, (Dtype::F16, tensor.dims().to_vec(), bytes.collect()));
        Ok(())
    }

    pub(super) fn f32(&mut self, name: impl Into<String>, tensor: &Tensor) -> Result<()> {
        let name = name.into();
        let bytes = self.finite_values(&name, tensor)?.into_iter().flat_map(f32::to_le_bytes);
        let bytes = bytes.collect();
        self.tensors.insert(name, (Dtype::F32, tensor.dims().to_vec(), bytes));
        Ok(())
    }

    /// Writes what is computed in double precision, such as a factor.
    pub(super) fn f64(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let values: Vec<f64> = tensor.flatten_all()?.to_vec1()?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(self.refused(&format_args!("`{name}` has values that are not finite")));
        }
        let bytes = values.into_iter().flat_map(f64::to_le_bytes).collect();
        self.tensors.insert(name.to_owned(), (Dtype::F64, tensor.dims().to_vec(), bytes));
        Ok(())
    }

    /// Writes words into the header, and embedding rows as tensors.
    pub(super) fn concepts(&mut self, concepts: &[DeltaConcept]) -> Result<()> {
        let headers: Vec<ConceptHeader> = concepts
            .iter()
            .map(|concept| ConceptHeader {
                modifier_token: concept.words.modifier_token.clone(),
                initializer_token: concept.initializer_token.clone(),
                class_noun: concept.words.class_noun.clone(),
            })
            .collect();
        let headers = serde_json::to_string(&headers).map_err(|error| self.refused(&error))?;
        self.metadata.insert("concepts".into(), headers);
        for concept in concepts {
            if let (Some(token), Some(row)) =
                (&concept.words.modifier_token, &concept.embedding_row)
            {
                let row = Tensor::new(row.as_slice(), &Device::Cpu)?;
                self.f32(format!("{TOKEN_PREFIX}{token}"), &row)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<u8>> {
        let views = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| self.refused(&error))?;
        let bytes = safetensors::serialize(views, None).map_err(|error| self.refused(&error))?;
        with_metadata(self.what, &bytes, &self.metadata)
    }

    fn finite_values(&self, name: &str, tensor: &Tensor) -> Result<Vec<f32>> {
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(self.refused(&format_args!("`{name}` has values that are not finite")))
    }

    fn refused(&self, reason: &dyn std::fmt::Display) -> EngineError {
        EngineError::InvalidInput(format!("{} cannot be written: {reason}", self.what))
    }
}

/// A file that has been read. What is taken is removed, so that what is left over can be found.
pub(super) struct Reader {
    what: &'static str,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

impl Reader {
    /// # Errors
    /// [`EngineError::InvalidInput`] for bytes that are cut short, no safetensors, of another format, or hold a value
    /// that is not finite.
    pub(super) fn open(what: &'static str, format: &str, bytes: &[u8]) -> Result<Self> {
        Ok(Self::open_any(what, &[format], bytes)?.0)
    }

    /// The same for a file of any of these formats; returns which one it is.
    pub(super) fn open_any(
        what: &'static str,
        formats: &[&str],
        bytes: &[u8],
    ) -> Result<(Self, String)> {
        let unreadable = |error: safetensors::SafeTensorError| not_a(what, &error);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let mut metadata: BTreeMap<String, String> =
            header.metadata().clone().unwrap_or_default().into_iter().collect();
        let format = metadata.remove("format").filter(|format| formats.contains(&format.as_str()));
        let format = format.ok_or_else(|| {
            let known = formats.join("` or `");
            not_a(what, &format_args!("its header does not say `format: {known}`"))
        })?;
        let tensors = file
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let tensor = read_tensor(what, &name, &view)?;
                Ok((name, tensor))
            })
            .collect::<Result<_>>()?;
        Ok((Self { what, metadata, tensors }, format))
    }

    /// An entry of the header.
    pub(super) fn take_metadata(&mut self, name: &str) -> Result<String> {
        let entry = self.metadata.remove(name);
        entry.ok_or_else(|| self.invalid(&format_args!("its header names no {name}")))
    }

    pub(super) fn take_tensor(&mut self, name: &str) -> Result<Tensor> {
        let tensor = self.tensors.remove(name);
        tensor.ok_or_else(|| self.invalid(&format_args!("it has no `{name}`")))
    }

    /// The concepts with their rows.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a modifier token without a row, and for a row that no concept names.
    pub(super) fn take_concepts(&mut self) -> Result<Vec<DeltaConcept>> {
        let headers = self.take_metadata("concepts")?;
        let headers: Vec<ConceptHeader> = serde_json::from_str(&headers).map_err(|error| {
            self.invalid(&format_args!("its header's concepts do not parse: {error}"))
        })?;
        let is_row = |name: &String| name.starts_with(TOKEN_PREFIX);
        let names: Vec<String> = self.tensors.keys().filter(|name| is_row(name)).cloned().collect();
        let mut rows = HashMap::new();
        for name in names {
            let row = self.take_tensor(&name)?.flatten_all()?.to_vec1::<f32>()?;
            rows.insert(name[TOKEN_PREFIX.len()..].to_owned(), row);
        }
        let mut concepts = Vec::new();
        for header in headers {
            let embedding_row = match &header.modifier_token {
                None => None,
                Some(token) => Some(rows.remove(token.as_str()).ok_or_else(|| {
                    self.invalid(&format_args!("it has no row for modifier token {token}"))
                })?),
            };
            let words = ConceptWords {
                modifier_token: header.modifier_token,
                class_noun: header.class_noun,
            };
            let initializer_token = header.initializer_token;
            concepts.push(DeltaConcept { words, embedding_row, initializer_token });
        }
        if let Some(token) = rows.keys().min() {
            return Err(self.invalid(&format_args!(
                "it has a row for {token}, which none of its concepts names"
            )));
        }
        Ok(concepts)
    }

    pub(super) fn invalid(&self, reason: &dyn std::fmt::Display) -> EngineError {
        not_a(self.what, reason)
    }
}

/// Puts sorted metadata into the header: the `safetensors` crate writes it in the order of a hash map, which differs
/// from run to run.
fn with_metadata(
    what: &'static str,
    bytes: &[u8],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let headless = || not_a(what, &"it has no header");
    let (length, rest) = bytes.split_at_checked(8).ok_or_else(headless)?;
    let length = u64::from_le_bytes(length.try_into().map_err(|_| headless())?) as usize;
    let (header, data) = rest.split_at_checked(length).ok_or_else(headless)?;
    let entries: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|error| not_a(what, &error))?;
    let mut sorted: BTreeMap<String, serde_json::Value> = entries.into_iter().collect();
    sorted.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut header = serde_json::to_vec(&sorted).map_err(|error| not_a(what, &error))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = Vec::with_capacity(8 + header.len() + data.len());
    out.extend_from_slice(&(header.len() as u64).to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    Ok(out)
}

/// f16 and f32 become f32; f64 stays.
fn read_tensor(what: &'static str, name: &str, view: &TensorView<'_>) -> Result<Tensor> {
    let (shape, data) = (view.shape(), view.data());
    let not_finite = || not_a(what, &format_args!("`{name}` has values that are not finite"));
    if view.dtype() == Dtype::F64 {
        let (values, _) = data.as_chunks::<8>();
        let values: Vec<f64> = values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(not_finite());
        }
        return Ok(Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    let values: Vec<f32> = match view.dtype() {
        Dtype::F16 => {
            let (values, _) = data.as_chunks::<2>();
            values.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect()
        }
        Dtype::F32 => {
            let (values, _) = data.as_chunks::<4>();
            values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
        other => {
            return Err(not_a(what, &format_args!("`{name}` is {other:?}, expected F16 or F32")));
        }
    };
    if values.iter().any(|value| !value.is_finite()) {
        return Err(not_finite());
    }
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn not_a(what: &'static str, reason: &dyn std::fmt::Display) -> EngineError {
    EngineError::InvalidInput(format!("this is not {what}: {reason}"))
}
