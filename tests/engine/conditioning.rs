//! K and V of prompts: a concept that is asked for shows in them, or nothing is drawn.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::Device;
use vstar::{
    domain::concept::ModifierToken,
    engine::{
        EngineError, Result,
        base_model::BaseModel,
        conditioning::{ConceptUse, Conditioning, condition_prompt},
        custom_diffusion::delta::{Delta, DeltaConcept, DeltaWeights},
    },
};

use crate::devices::test_devices;

fn base_model_on(device: &Device) -> BaseModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sd1/model");
    BaseModel::load(&folder, device).unwrap()
}

/// A concept `<rex>` whose last value projection is the base model's times `factor`; all others are the base model's.
fn concept(base: &BaseModel, factor: f64) -> Arc<Delta> {
    let mut weights = BTreeMap::new();
    for (index, kv) in base.unet.cross_attention().iter().enumerate() {
        let is_last = index + 1 == base.unet.cross_attention().len();
        let value = if is_last { (&kv.to_v * factor).unwrap() } else { kv.to_v.clone() };
        weights.insert(format!("{}.to_k.weight", kv.name), kv.to_k.clone());
        weights.insert(format!("{}.to_v.weight", kv.name), value);
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

#[test]
fn a_concept_that_changes_nothing_is_refused_instead_of_drawn_as_the_base_model() {
    for device in test_devices() {
        let base = base_model_on(&device);
        let condition = |factor: f64, strength: f64, prompt: &str| -> Result<Conditioning> {
            condition_prompt(
                &base,
                prompt,
                &[ConceptUse { delta: concept(&base, factor), strength }],
            )
        };

        let refused = condition(1.0, 1.0, "photo of a dog");
        assert!(matches!(refused, Err(EngineError::WithoutEffect { .. })), "{refused:?}");

        // One matrix of one layer is enough, at any strength; a token row is a change as well.
        assert!(condition(1.01, 1.0, "photo of a dog").is_ok());
        assert!(condition(1.01, 0.1, "photo of a dog").is_ok());
        assert!(condition(1.0, 1.0, "photo of a <rex> dog").is_ok());
        // At no strength the base model is what was asked for.
        assert!(condition(1.0, 0.0, "photo of a dog").is_ok());
    }
}
