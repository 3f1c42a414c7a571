//! A training's state as a file, to go on from in another process.
//!
//! The file is safetensors. Each trained tensor has three entries of one shape, in f32: `value.NAME`, `first_moment.NAME` and
//! `second_moment.NAME`. The header has one entry, a JSON object with the format and its version, the number of steps taken, and
//! the names in their order. (Several entries would be written in the order of a hash map.)

use std::borrow::Cow;
use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, View};
use safetensors::{SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};

use super::state::{ParameterState, TrainerState};
use crate::engine::error::{EngineError, Result};

const FORMAT: &str = "vstar-training-state-1";
/// The entry of the header.
const ENTRY: &str = "training_state";

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    step: usize,
    parameters: Vec<String>,
}

impl TrainerState {
    /// The same state in host memory. Nothing is copied if it is there already.
    pub fn on_host(self) -> Result<Self> {
        let on_host = |tensor: &Tensor| tensor.to_device(&Device::Cpu);
        let parameters = self.parameters.into_iter().map(|one| {
            Ok(ParameterState {
                value: on_host(&one.value)?,
                first_moment: on_host(&one.first_moment)?,
                second_moment: on_host(&one.second_moment)?,
                name: one.name,
            })
        });
        Ok(Self { step: self.step, parameters: parameters.collect::<Result<_>>()? })
    }

    /// The file of a state; [`Self::from_safetensors`] gives the same state to the bit. The same state gives the same bytes.
    ///
    /// # Errors
    /// [`EngineError::Tensor`] if the device fails.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let mut entries = Vec::new();
        for parameter in &self.parameters {
            for (part, tensor) in parts_of(parameter) {
                let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                entries.push((format!("{part}.{}", parameter.name), Entry(tensor.contiguous()?)));
            }
        }
        let unwritable = |reason: &dyn std::fmt::Display| {
            EngineError::InvalidInput(format!("the training's state cannot be written: {reason}"))
        };
        let header = Header {
            format: FORMAT.to_owned(),
            step: self.step,
            parameters: self.parameters.iter().map(|one| one.name.clone()).collect(),
        };
        let header = serde_json::to_string(&header).map_err(|error| unwritable(&error))?;
        let header = HashMap::from([(ENTRY.to_owned(), header)]);
        safetensors::serialize(entries, Some(header)).map_err(|error| unwritable(&error))
    }

    /// Reads a file that [`Self::to_safetensors`] wrote, into host memory.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for bytes that are cut short, or are no file of this format.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let unreadable = |error: SafeTensorError| not_a_state(&error);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let header = header.metadata().as_ref().and_then(|header| header.get(ENTRY));
        let header = header.ok_or_else(|| not_a_state(&format_args!("it has no `{ENTRY}`")))?;
        let header: Header = serde_json::from_str(header).map_err(|error| not_a_state(&error))?;
        if header.format != FORMAT {
            return Err(not_a_state(&format_args!("its format is not {FORMAT}")));
        }
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let read = |part: &str, name: &str| read_tensor(&file, &format!("{part}.{name}"));
        let parameters = header.parameters.into_iter().map(|name| {
            Ok(ParameterState {
                value: read("value", &name)?,
                first_moment: read("first_moment", &name)?,
                second_moment: read("second_moment", &name)?,
                name,
            })
        });
        Ok(Self { step: header.step, parameters: parameters.collect::<Result<_>>()? })
    }
}

fn parts_of(parameter: &ParameterState) -> [(&'static str, &Tensor); 3] {
    [
        ("value", &parameter.value),
        ("first_moment", &parameter.first_moment),
        ("second_moment", &parameter.second_moment),
    ]
}

/// A tensor on the CPU in f32. Its bytes are made when they are written, one tensor at a time.
struct Entry(Tensor);

impl View for Entry {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.0.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
        let values = values.unwrap_or_default(); // it is on the CPU, in f32
        let mut bytes = vec![0; self.data_len()];
        for (bytes, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.0.elem_count() * size_of::<f32>()
    }
}

fn read_tensor(file: &SafeTensors<'_>, name: &str) -> Result<Tensor> {
    let view = file.tensor(name).map_err(|error| not_a_state(&error))?;
    if view.dtype() != Dtype::F32 {
        let text = format_args!("`{name}` is {:?}, expected F32", view.dtype());
        return Err(not_a_state(&text));
    }
    let (values, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Ok(Tensor::from_vec(values, view.shape(), &Device::Cpu)?)
}

fn not_a_state(reason: &dyn std::fmt::Display) -> EngineError {
    EngineError::InvalidInput(format!("this is not a training's state: {reason}"))
}
