//! K and V of prompts: a concept that is asked for shows in them, or no image is generated.

use std::{path::Path, sync::Arc};

use candle_core::Device;
use vstar::engine::{
    BaseModel, ConceptUse, Delta, EngineError, KeyValues, Result, condition_prompt,
};

use crate::deltas::rex;
use crate::devices::test_devices;

fn base_model_on(device: &Device) -> BaseModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sd1/model");
    BaseModel::load(&folder, device).unwrap()
}

/// A concept `<rex>` whose last value projection is the base model's times `factor`; all others are the base model's.
fn concept(base: &BaseModel, factor: f64) -> Arc<Delta> {
    let last = base.unet.cross_attention().len() - 1;
    rex(base, |layer| if layer == last { factor } else { 1.0 })
}

#[test]
fn a_concept_that_changes_nothing_is_refused_instead_of_sampled_as_the_base_model() {
    for device in test_devices() {
        let base = base_model_on(&device);
        let condition = |factor: f64, strength: f64, prompt: &str| -> Result<KeyValues> {
            condition_prompt(
                &base,
                prompt,
                &[ConceptUse { delta: concept(&base, factor), strength }],
            )
        };

        let refused = condition(1.0, 1.0, "photo of a dog");
        assert!(matches!(refused, Err(EngineError::WithoutEffect { .. })), "{refused:?}");

        // One matrix of one layer is enough, at any strength; an embedding row is a change as well.
        assert!(condition(1.01, 1.0, "photo of a dog").is_ok());
        assert!(condition(1.01, 0.1, "photo of a dog").is_ok());
        assert!(condition(1.0, 1.0, "photo of a <rex> dog").is_ok());
        // At no strength the base model is what was asked for.
        assert!(condition(1.0, 0.0, "photo of a dog").is_ok());
    }
}
