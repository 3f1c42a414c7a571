//! The text features of a batch's captions, and their backward pass to the modifier tokens' embedding rows.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::engine::autograd::{Tape, Variable};
use crate::engine::error::{EngineError, Result};
use crate::engine::ops;
use crate::engine::training::FrozenModel;

/// The text features of a batch, and which of them depend on modifier rows.
pub struct Captions {
    /// `(batch, tokens, text_dim)`, f32.
    pub(super) features: Tensor,
    live: Vec<Live>,
    /// For each element, its place among the live captions of all parts.
    live_of_element: Vec<Option<usize>>,
}

/// Some of the distinct captions with a modifier token.
struct Live {
    tape: Tape,
    /// Each caption has its own copy of the modifier rows, `(live · n, text_dim)`: their gradients are added up in one
    /// order, however the captions are divided among the threads.
    modifier_rows: Variable,
    /// `(live, tokens, text_dim)`.
    features: Variable,
}

impl Captions {
    /// - `traced`: whether the modifier rows are trained; otherwise all captions are frozen
    pub(super) fn encode(
        base: FrozenModel<'_>,
        input_ids: &[Vec<u32>],
        modifier_rows: Option<&Tensor>,
        traced: bool,
        frozen: &mut FrozenFeatures,
    ) -> Result<Self> {
        let vocab_size = base.text_encoder.vocab_size() as u32;
        let is_modified = |ids: &[u32]| ids.iter().any(|&id| id >= vocab_size);
        if modifier_rows.is_none() && input_ids.iter().any(|ids| is_modified(ids)) {
            return Err(EngineError::InvalidInput(
                "a caption has a modifier token, the parameters have none".into(),
            ));
        }
        let mut distinct: Vec<Vec<u32>> = Vec::new();
        let live_of_element: Vec<Option<usize>> = input_ids
            .iter()
            .map(|ids| {
                (traced && is_modified(ids)).then(|| {
                    distinct.iter().position(|known| known == ids).unwrap_or_else(|| {
                        distinct.push(ids.clone());
                        distinct.len() - 1
                    })
                })
            })
            .collect();
        let live = match (modifier_rows, distinct.is_empty()) {
            (Some(rows), false) => base
                .text_encoder
                .split()
                .map(distinct.len(), |captions| Live::encode(base, &distinct[captions], rows))?,
            (None, _) | (_, true) => Vec::new(),
        };
        let mut live_features = Vec::new();
        for part in &live {
            let features = part.features.tensor().to_dtype(DType::F32)?;
            for caption in 0..features.dim(0)? {
                live_features.push(features.narrow(0, caption, 1)?);
            }
        }
        let mut elements = Vec::with_capacity(input_ids.len());
        for (ids, live) in input_ids.iter().zip(&live_of_element) {
            elements.push(match live {
                Some(caption) => live_features[*caption].clone(),
                None => frozen.of(base, ids, modifier_rows.filter(|_| is_modified(ids)))?,
            });
        }
        Ok(Self { features: Tensor::cat(&elements, 0)?, live, live_of_element })
    }

    /// Takes `d_features` `(batch, tokens, text_dim)` back through the text encoder to the modifier rows.
    pub(super) fn modifier_gradient(
        self,
        modifier_rows: &Tensor,
        d_features: &Tensor,
    ) -> Result<Tensor> {
        let lives: usize = self.live.iter().map(|part| part.features.tensor().dims()[0]).sum();
        let mut sums: Vec<Option<Tensor>> = vec![None; lives];
        for (element, caption) in self.live_of_element.iter().enumerate() {
            if let Some(caption) = caption {
                let d_element = d_features.narrow(0, element, 1)?;
                sums[*caption] = Some(match sums[*caption].take() {
                    Some(sum) => ops::sum(&sum, &d_element)?,
                    None => d_element,
                });
            }
        }
        let mut parts = Vec::with_capacity(self.live.len());
        let mut sums = sums.into_iter().flatten();
        for part in self.live {
            let count = part.features.tensor().dim(0)?;
            let d_features: Vec<Tensor> = sums.by_ref().take(count).collect();
            parts.push((part, Tensor::cat(&d_features, 0)?));
        }
        let of_captions: Vec<Tensor> = parts
            .into_par_iter()
            .map(|(part, d_features)| part.gradient(&d_features))
            .collect::<Result<_>>()?;
        let (n, dim) = modifier_rows.dims2()?;
        let mut gradient = modifier_rows.zeros_like()?;
        for of_part in of_captions {
            for of_caption in of_part.reshape(((), n, dim))?.chunk(of_part.dim(0)? / n, 0)? {
                gradient = (gradient + of_caption.squeeze(0)?)?;
            }
        }
        Ok(gradient)
    }
}

impl Live {
    fn encode(
        base: FrozenModel<'_>,
        captions: &[Vec<u32>],
        modifier_rows: &Tensor,
    ) -> Result<Self> {
        let vocab_size = base.text_encoder.vocab_size() as u32;
        let count = modifier_rows.dim(0)?;
        let own_rows = |(caption, ids): (usize, &Vec<u32>)| -> Vec<u32> {
            let offset = (caption * count) as u32;
            ids.iter().map(|&id| if id >= vocab_size { id + offset } else { id }).collect()
        };
        let ids: Vec<Vec<u32>> = captions.iter().enumerate().map(own_rows).collect();
        let tape = Tape::default();
        let modifier_rows = tape.leaf(modifier_rows.repeat((captions.len(), 1))?);
        let features = base.text_encoder.trace(&ids, Some(&modifier_rows))?;
        Ok(Self { tape, modifier_rows, features })
    }

    /// Takes `d_features` `(live, tokens, text_dim)` back to the copies of the modifier rows.
    fn gradient(self, d_features: &Tensor) -> Result<Tensor> {
        let d_features = d_features.contiguous()?.to_dtype(self.features.tensor().dtype())?;
        let mut gradients = self.tape.backward(&self.features, d_features)?;
        match gradients.take(&self.modifier_rows) {
            Some(gradient) => Ok(gradient.to_dtype(DType::F32)?),
            None => Ok(self.modifier_rows.tensor().zeros_like()?),
        }
    }
}

/// Text features of captions that do not change while training: those without a modifier token, and all if no modifier row is
/// trained.
#[derive(Default)]
pub(super) struct FrozenFeatures(HashMap<Vec<u32>, Tensor>);

impl FrozenFeatures {
    fn of(
        &mut self,
        base: FrozenModel<'_>,
        ids: &[u32],
        modifier_rows: Option<&Tensor>,
    ) -> Result<Tensor> {
        if let Some(features) = self.0.get(ids) {
            return Ok(features.clone());
        }
        let features = base.text_encoder.forward(&[ids.to_vec()], modifier_rows)?;
        let features = features.to_dtype(DType::F32)?;
        self.0.insert(ids.to_vec(), features.clone());
        Ok(features)
    }
}
