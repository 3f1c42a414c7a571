//! Merges over the tiny base model, with small synthetic deltas.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use vstar::domain::concept::ModifierToken;
use vstar::engine::base_model::BaseModel;
use vstar::engine::conditioning::ConceptUse;
use vstar::engine::custom_diffusion::delta::{Delta, DeltaConcept, DeltaWeights};
use vstar::engine::custom_diffusion::merge::merge;
use vstar::engine::custom_diffusion::pack::MergeBase;
use vstar::engine::random::{Purpose, Random};

use crate::devices::test_devices;

fn tiny_on(device: &Device) -> BaseModel {
    BaseModel::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny"), device).unwrap()
}

fn captions() -> Vec<String> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/class_images/metadata.jsonl");
    let lines = std::fs::read_to_string(file).unwrap();
    lines
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["text"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

/// A delta that changes every matrix by a little noise.
fn delta(
    base: &BaseModel,
    modifier_token: Option<&str>,
    class_noun: &str,
    seed: u64,
) -> ConceptUse {
    let mut matrices = BTreeMap::new();
    for (index, layer) in base.unet.cross_attention().iter().enumerate() {
        for (part, weight) in [("to_k", &layer.to_k), ("to_v", &layer.to_v)] {
            let mut noise = vec![0.0; weight.elem_count()];
            Random::new(seed, Purpose::Noise, index as u64, u64::from(part == "to_v"))
                .normals(&mut noise);
            let noise = Tensor::from_vec(noise, weight.shape(), &Device::Cpu).unwrap();
            let weight = weight.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
            let changed = (weight + (noise * 0.02).unwrap()).unwrap();
            matrices.insert(format!("{}.{part}.weight", layer.name), changed);
        }
    }
    let token_row = modifier_token.map(|_| {
        let mut row = vec![0.0; base.text_encoder.hidden_size()];
        Random::new(seed, Purpose::Noise, 99, 0).normals(&mut row);
        row.iter_mut().for_each(|value| *value *= 0.3);
        row
    });
    let concept = DeltaConcept {
        modifier_token: modifier_token
            .map(|token| ModifierToken::try_from(token.to_owned()).unwrap()),
        token_row,
        initializer_token: None,
        class_noun: class_noun.into(),
    };
    let delta = Delta {
        base_digest: base.digest.clone(),
        concepts: vec![concept],
        weights: DeltaWeights::Dense(matrices),
        metadata: BTreeMap::new(),
    };
    ConceptUse { delta: Arc::new(delta), strength: 1.0 }
}

#[test]
fn a_merge_keeps_its_concepts_and_leaves_ordinary_prompts_alone() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let merge_base = MergeBase::new(&base, &captions()).unwrap();
        let deltas = [delta(&base, Some("<rex>"), "dog", 1), delta(&base, None, "gate", 2)];

        let (merged, diagnostics) = merge(&base, &merge_base, &deltas, Some(1e5)).unwrap();

        assert_eq!(merged.concepts.len(), 2);
        assert!(diagnostics.constraint_error < 0.2, "{diagnostics:?}");
        assert!(diagnostics.drift < 0.3, "{diagnostics:?}");
        assert_eq!(diagnostics.overlaps.len(), 1);
        merged.check_base(&base).unwrap();
    }
}

#[test]
fn a_weaker_constraint_drifts_less() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let merge_base = MergeBase::new(&base, &captions()).unwrap();
        let deltas = [delta(&base, Some("<rex>"), "dog", 1), delta(&base, Some("<tom>"), "cat", 2)];
        let at = |weight| merge(&base, &merge_base, &deltas, Some(weight)).unwrap().1;

        let (weak, strong) = (at(10.0), at(1e5));

        assert!(weak.drift < strong.drift, "{weak:?} {strong:?}");
        assert!(weak.constraint_error > strong.constraint_error, "{weak:?} {strong:?}");
    }
}

#[test]
fn a_merged_delta_survives_its_file() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let merge_base = MergeBase::new(&base, &captions()).unwrap();
        let deltas =
            [delta(&base, Some("<rex>"), "dog", 1), delta(&base, Some("<bear>"), "teddy bear", 2)];
        let (merged, _) = merge(&base, &merge_base, &deltas, Some(1e3)).unwrap();

        let read = Delta::from_safetensors(&merged.to_safetensors().unwrap()).unwrap();

        let (before, after) = (merged.densify(&base).unwrap(), read.densify(&base).unwrap());
        for (name, matrix) in &before {
            assert_eq!(
                matrix.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                after[name].flatten_all().unwrap().to_vec1::<f32>().unwrap()
            );
        }
        assert_eq!(read.concepts, merged.concepts);
    }
}

#[test]
fn deltas_that_teach_the_same_word_are_refused() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let merge_base = MergeBase::new(&base, &captions()).unwrap();
        let deltas = [delta(&base, Some("<rex>"), "dog", 1), delta(&base, Some("<rex>"), "cat", 2)];

        let error = merge(&base, &merge_base, &deltas, Some(1e3)).err().unwrap().to_string();

        assert!(error.contains("`<rex>`"), "{error}");
        assert!(merge(&base, &merge_base, &deltas[..1], Some(1e3)).is_err());
    }
}
