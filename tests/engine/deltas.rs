//! A delta that nobody trained.

use std::collections::BTreeMap;
use std::sync::Arc;

use vstar::domain::concept::{ClassNoun, ConceptWords, ModifierToken};
use vstar::engine::{BaseModel, Delta, DeltaConcept, DeltaWeights};

/// A dog `<rex>` with an embedding row of its own, whose value projections are the base model's times a factor for each layer.
pub(crate) fn rex(base: &BaseModel, factor: impl Fn(usize) -> f64) -> Arc<Delta> {
    let mut weights = BTreeMap::new();
    for (layer, kv) in base.unet.cross_attention().iter().enumerate() {
        weights.insert(format!("{}.to_k.weight", kv.name), kv.to_k.clone());
        weights.insert(format!("{}.to_v.weight", kv.name), (&kv.to_v * factor(layer)).unwrap());
    }
    Arc::new(Delta {
        base_digest: base.digest.clone(),
        concepts: vec![DeltaConcept {
            words: ConceptWords {
                modifier_token: Some(ModifierToken::try_from("<rex>".to_owned()).unwrap()),
                class_noun: ClassNoun::try_from("dog".to_owned()).unwrap(),
            },
            embedding_row: Some(base.prompt_encoder.embedding_row(5).unwrap()),
            initializer_token: None,
        }],
        weights: DeltaWeights::Dense(weights),
        metadata: BTreeMap::new(),
    })
}
