//! What a sample promises: its bytes depend on its request alone, and what cannot be drawn is said.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Device;
use vstar::{
    domain::{concept::ModifierToken, sample::SchedulerName},
    engine::{
        EngineError, Flow,
        base_model::BaseModel,
        conditioning::ConceptUse,
        custom_diffusion::delta::{Delta, DeltaConcept, DeltaWeights},
        sampler::{SampleRequest, sample},
    },
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sd1/model")
}

fn base_model() -> BaseModel {
    BaseModel::load(&folder(), &Device::Cpu).unwrap()
}

fn any_request(base: &BaseModel) -> SampleRequest {
    SampleRequest {
        prompt: "photo of a dog".into(),
        negative_prompt: String::new(),
        concepts: Vec::new(),
        seed: 1,
        image_index: 0,
        num_inference_steps: 3,
        guidance_scale: 4.0,
        scheduler: SchedulerName::Ddim,
        eta: 0.0,
        width: 8 * base.vae.factor(),
        height: 8 * base.vae.factor(),
    }
}

/// A concept `<rex>` that changes all values and has a token row of its own.
fn any_concept(base: &BaseModel) -> Arc<Delta> {
    let mut weights = BTreeMap::new();
    for kv in base.unet.cross_attention() {
        weights.insert(format!("{}.to_k.weight", kv.name), kv.to_k.clone());
        weights.insert(format!("{}.to_v.weight", kv.name), (&kv.to_v * 1.5).unwrap());
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

fn draw(base: &BaseModel, requests: &[SampleRequest]) -> Vec<Vec<u8>> {
    let images = sample(base, requests, &mut |_, _| Flow::Continue).unwrap();
    images.into_iter().map(image::RgbImage::into_raw).collect()
}

fn refusal(base: &BaseModel, request: SampleRequest) -> String {
    match sample(base, &[request], &mut |_, _| Flow::Continue) {
        Err(EngineError::InvalidInput(text)) => text,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the request was drawn"),
    }
}

#[test]
fn an_image_has_the_same_bytes_alone_and_among_neighbours() {
    let base = base_model();
    let request = any_request(&base);
    let rex = ConceptUse { delta: any_concept(&base), strength: 0.7 };
    let short = SampleRequest { num_inference_steps: 4, ..request.clone() };
    let mut requests = vec![
        SampleRequest {
            prompt: "a chair".into(),
            num_inference_steps: 7,
            seed: 5,
            ..request.clone()
        },
        request.clone(),
        SampleRequest { prompt: "a <rex> dog".into(), concepts: vec![rex], ..request.clone() },
        SampleRequest { eta: 1.0, guidance_scale: 1.0, image_index: 2, ..short.clone() },
        SampleRequest {
            width: 2 * request.width,
            negative_prompt: "a cat".into(),
            ..request.clone()
        },
    ];
    use SchedulerName::*;
    for scheduler in [Ddpm, Pndm, Euler, EulerA, Dpmpp2m, Dpmpp2mKarras, UniPc, Lcm] {
        requests.push(SampleRequest { scheduler, ..short.clone() });
    }

    let together = draw(&base, &requests);

    for (i, request) in requests.iter().enumerate() {
        let alone = draw(&base, std::slice::from_ref(request));
        assert!(alone[0] == together[i], "row {i} depends on its neighbours");
        let twin = together.iter().position(|other| *other == together[i]);
        assert_eq!(twin, Some(i), "two rows are the same picture");
    }
}

#[test]
fn seed_and_index_choose_the_noise() {
    let base = base_model();
    let request = any_request(&base);

    let images = draw(
        &base,
        &[
            request.clone(),
            request.clone(),
            SampleRequest { seed: 2, ..request.clone() },
            SampleRequest { image_index: 1, ..request.clone() },
        ],
    );

    assert!(images[0] == images[1]);
    assert!(images[0] != images[2]);
    assert!(images[0] != images[3]);
    assert!(images[2] != images[3]);
}

#[test]
fn a_concept_without_strength_leaves_the_base_model() {
    let base = base_model();
    let request = any_request(&base);
    let concept = any_concept(&base);
    let with = |strength| SampleRequest {
        concepts: vec![ConceptUse { delta: concept.clone(), strength }],
        ..request.clone()
    };

    let images = draw(&base, &[request.clone(), with(0.0), with(1.0)]);

    assert!(images[0] == images[1]);
    assert!(images[0] != images[2]);
}

#[test]
fn a_prompt_over_the_limit_is_refused_with_its_length() {
    let base = base_model();

    let text = refusal(&base, SampleRequest { prompt: "a ".repeat(76), ..any_request(&base) });

    assert!(text.contains("a a a") && text.contains("78") && text.contains("77"), "{text}");
    let fits =
        SampleRequest { prompt: "a ".repeat(75), num_inference_steps: 1, ..any_request(&base) };
    assert_eq!(draw(&base, &[fits]).len(), 1);
}

#[test]
fn a_word_in_brackets_without_a_concept_is_refused_by_name() {
    let base = base_model();
    let concepts = vec![ConceptUse { delta: any_concept(&base), strength: 1.0 }];
    let request = any_request(&base);

    let unknown =
        refusal(&base, SampleRequest { prompt: "photo of a <rex> dog".into(), ..request.clone() });
    let negative = SampleRequest {
        negative_prompt: "<max>".into(),
        concepts: concepts.clone(),
        ..request.clone()
    };
    let other = refusal(&base, negative);

    assert!(unknown.contains("<rex>"), "{unknown}");
    assert!(other.contains("<max>"), "{other}");
    let known = SampleRequest { prompt: "1 < 2, a <Rex>dog > <!>".into(), concepts, ..request };
    assert_eq!(draw(&base, &[known]).len(), 1);
}

#[test]
fn a_delta_of_another_base_model_is_refused() {
    let base = base_model();
    let mut foreign = Delta::clone(&any_concept(&base));
    foreign.base_digest = "0".repeat(64);
    let concepts = vec![ConceptUse { delta: Arc::new(foreign), strength: 1.0 }];

    let text = refusal(&base, SampleRequest { concepts, ..any_request(&base) });

    assert!(text.contains("base model"), "{text}");
}

#[test]
fn a_size_that_does_not_fit_and_no_steps_are_refused() {
    let base = base_model();

    let size = refusal(&base, SampleRequest { width: 100, ..any_request(&base) });
    let empty = refusal(&base, SampleRequest { height: 0, ..any_request(&base) });
    let steps = refusal(&base, SampleRequest { num_inference_steps: 0, ..any_request(&base) });

    assert!(size.contains("100"), "{size}");
    assert!(empty.contains('0'), "{empty}");
    assert!(steps.contains("steps"), "{steps}");
}

#[test]
fn an_observer_can_stop_between_steps() {
    let base = base_model();
    let mut seen = Vec::new();

    let result = sample(&base, &[any_request(&base)], &mut |step, of| {
        seen.push((step, of));
        if step == 2 { Flow::Stop } else { Flow::Continue }
    });

    assert!(matches!(result, Err(EngineError::Stopped)));
    assert_eq!(seen, [(1, 3), (2, 3)]);
}
