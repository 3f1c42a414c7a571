//! A delta that nobody trained.

use std::collections::BTreeMap;
use std::sync::Arc;

use vstar::domain::concept::ModifierToken;
use vstar::engine::base_model::BaseModel;
use vstar::engine::custom_diffusion::delta::{Delta, DeltaConcept, DeltaWeights};

/// A dog `<rex>` with a token row of its own, whose value projections are the base model's times a factor for each layer.
pub(crate) fn rex(base: &BaseModel, factor: impl Fn(usize) -> f64) -> Arc<Delta> {
    let mut weights = BTreeMap::new();
    for (layer, kv) in base.unet.cross_attention().iter().enumerate() {
        weights.insert(format!("{}.to_k.weight", kv.name), kv.to_k.clone());
        weights.insert(format!("{}.to_v.weight", kv.name), (&kv.to_v * factor(layer)).unwrap());
    }
    Arc::new(Delta {
        base_digest: base.digest.clone(),
        concepts: vec![DeltaConcept {
            modifier_token: Some(ModifierToken::try_from("<rex>".to_owned()).unwrap()),
            token_row: Some(base.text_encoder.token_row(5).unwrap()),
            initializer_token: None,
            class_noun: "dog".into(),
        }],
        weights: DeltaWeights::Dense(weights),
        metadata: BTreeMap::new(),
    })
}
