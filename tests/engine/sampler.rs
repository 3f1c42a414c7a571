//! What a sample promises: its bytes depend on its request alone, and what cannot be generated is refused with a reason.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{Device, Tensor};
use vstar::{
    domain::sample::{Determinism, SchedulerName},
    engine::{
        BaseModel, ConceptUse, Delta, DenoisingState, EngineError, Flow, InitImage,
        PromptKeyValues, SampleRequest, denoise, encode_init, sample, step,
    },
};

use crate::deltas::rex;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sd1/model")
}

pub(crate) fn base_model() -> BaseModel {
    base_model_on(&Device::Cpu)
}

pub(crate) fn base_model_on(device: &Device) -> BaseModel {
    BaseModel::load(&folder(), device).unwrap()
}

pub(crate) fn any_request(base: &BaseModel) -> SampleRequest {
    SampleRequest {
        prompt: "photo of a dog".into(),
        negative_prompt: String::new(),
        concepts: Vec::new(),
        seed: 1,
        image_index: 0,
        num_inference_steps: 3,
        guidance_scale: 4.0,
        unconditional_strength: 1.0,
        guidance_interval: [0.0, 1.0],
        scheduler: SchedulerName::Ddim,
        eta: 0.0,
        width: 8 * base.vae.factor(),
        height: 8 * base.vae.factor(),
        init: None,
        determinism: Determinism::Strict,
    }
}

/// A concept `<rex>` that changes all values and has an embedding row of its own.
pub(crate) fn any_concept(base: &BaseModel) -> Arc<Delta> {
    rex(base, |_| 1.5)
}

pub(crate) fn generate(base: &BaseModel, requests: &[SampleRequest]) -> Vec<Vec<u8>> {
    let images = sample(base, requests, &mut |_, _| Flow::Continue).unwrap();
    images.into_iter().map(image::RgbImage::into_raw).collect()
}

fn refusal(base: &BaseModel, request: SampleRequest) -> String {
    match sample(base, &[request], &mut |_, _| Flow::Continue) {
        Err(EngineError::InvalidInput(text)) => text,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the image was generated"),
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
    // From noise of their own: Euler's ancestral steps are DDPM's, and give the same image from the same noise.
    let schedulers = [Ddpm, Pndm, Euler, EulerA, Dpmpp2m, Dpmpp2mKarras, UniPc, Lcm];
    for (seed, scheduler) in (100..).zip(schedulers) {
        requests.push(SampleRequest { scheduler, seed, ..short.clone() });
    }

    let together = generate(&base, &requests);

    for (i, request) in requests.iter().enumerate() {
        let alone = generate(&base, std::slice::from_ref(request));
        assert!(alone[0] == together[i], "image {i} depends on its neighbours");
        let twin = together.iter().position(|other| *other == together[i]);
        assert_eq!(twin, Some(i), "two requests give the same image");
    }
}

#[test]
fn seed_and_index_choose_the_noise() {
    let base = base_model();
    let request = any_request(&base);

    let images = generate(
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

/// The image as the decoder's numbers, which show what bytes would hide.
pub(crate) fn numbers(base: &BaseModel, request: &SampleRequest) -> Vec<f32> {
    let state = DenoisingState::new(base, request).unwrap();
    let states = denoise(base, vec![state], &mut |_, _| Flow::Continue).unwrap();
    states[0].decode(base).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_concept_without_strength_is_the_base_model_exactly() {
    let base = base_model();
    let request = any_request(&base);
    let concept = any_concept(&base);
    let with = |strength| SampleRequest {
        concepts: vec![ConceptUse { delta: concept.clone(), strength }],
        ..request.clone()
    };

    assert!(numbers(&base, &with(0.0)) == numbers(&base, &request));
    assert!(numbers(&base, &with(1.0)) != numbers(&base, &request));
    assert!(numbers(&base, &with(0.5)) != numbers(&base, &with(1.0)));
}

#[test]
fn a_modifier_token_without_strength_is_the_word_that_it_started_from() {
    let base = base_model();
    let mut started = Delta::clone(&any_concept(&base));
    started.concepts[0].initializer_token = Some("tortoise".into());
    let concept = Arc::new(started);
    let with = |strength| SampleRequest {
        prompt: "photo of a <rex> dog".into(),
        concepts: vec![ConceptUse { delta: concept.clone(), strength }],
        ..any_request(&base)
    };
    let started_from =
        SampleRequest { prompt: "photo of a tortoise dog".into(), ..any_request(&base) };

    assert!(numbers(&base, &with(0.0)) == numbers(&base, &started_from));
    assert!(numbers(&base, &with(0.01)) != numbers(&base, &started_from));
}

#[test]
fn the_negative_prompt_sees_as_much_of_the_concepts_as_is_asked_for() {
    let base = base_model();
    let concepts = vec![ConceptUse { delta: any_concept(&base), strength: 0.8 }];
    let request = SampleRequest { concepts, ..any_request(&base) };
    let with = |unconditional_strength| SampleRequest { unconditional_strength, ..request.clone() };
    let negative_of = |concepts| {
        let negative = SampleRequest { concepts, unconditional_strength: 1.0, ..request.clone() };
        let negative = PromptKeyValues::new(&base, &negative).unwrap().negative;
        let prompts =
            PromptKeyValues { negative, ..PromptKeyValues::new(&base, &request).unwrap() };
        let state = DenoisingState::with_key_values(&base, &request, prompts).unwrap();
        let states = denoise(&base, vec![state], &mut |_, _| Flow::Continue).unwrap();
        states[0].decode(&base).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let half = vec![ConceptUse { delta: any_concept(&base), strength: 0.4 }];

    assert!(numbers(&base, &with(0.0)) == negative_of(vec![]));
    assert!(numbers(&base, &with(0.5)) == negative_of(half));
    assert!(numbers(&base, &with(1.0)) == negative_of(request.concepts.clone()));
    assert!(numbers(&base, &with(0.0)) != numbers(&base, &with(1.0)));
}

#[test]
fn steps_outside_the_guidance_interval_take_one_element() {
    let base = base_model();
    let request = SampleRequest { num_inference_steps: 10, ..any_request(&base) };
    let elements = |guidance_interval| {
        let request = SampleRequest { guidance_interval, ..request.clone() };
        let mut state = DenoisingState::new(&base, &request).unwrap();
        let mut elements = Vec::new();
        while state.remaining() > 0 {
            elements.push(state.elements());
            step(&base, &mut [&mut state]).unwrap();
        }
        elements
    };

    // Timesteps 901, 801, … 1 of 1000: 0.099, 0.199, … 0.999 of the way.
    assert_eq!(elements([0.0, 1.0]), [2; 10]);
    assert_eq!(elements([0.15, 0.75]), [1, 2, 2, 2, 2, 2, 2, 1, 1, 1]);
    assert_eq!(elements([0.0, 0.0]), [1; 10]);
    let never = SampleRequest { guidance_interval: [0.0, 0.0], ..request.clone() };
    let unguided = SampleRequest { guidance_scale: 1.0, ..request.clone() };
    assert!(numbers(&base, &never) == numbers(&base, &unguided));
    assert!(numbers(&base, &never) != numbers(&base, &request));
}

#[test]
fn an_image_to_start_from_leaves_out_the_first_steps() {
    let base = base_model();
    let request = SampleRequest { num_inference_steps: 7, ..any_request(&base) };
    let (width, height) = (request.width, request.height + base.vae.factor());
    let photo = image::RgbImage::from_fn(40, 90, |x, y| image::Rgb([x as u8, y as u8, 128]));
    let latents = encode_init(&base, &photo, width, height).unwrap();
    use SchedulerName::*;
    for scheduler in [Ddim, Ddpm, Pndm, Euler, EulerA, Dpmpp2m, Dpmpp2mKarras, UniPc, Lcm] {
        let from = |noise_strength| SampleRequest {
            scheduler,
            height,
            init: Some(InitImage { latents: latents.clone(), noise_strength, mask: None }),
            ..request.clone()
        };
        let repeated = usize::from(scheduler == Pndm);

        // int(7 · 0.6) = 4 steps, as diffusers counts them.
        let state = DenoisingState::new(&base, &from(0.6)).unwrap();
        assert_eq!(state.remaining(), 4 + repeated, "{scheduler:?}");
        assert_eq!(DenoisingState::new(&base, &from(1.0)).unwrap().remaining(), 7 + repeated);
        let little = numbers(&base, &from(0.15));
        let much = numbers(&base, &from(0.9));
        let start = decoded(&base, &latents, width, height);
        assert!(distance(&little, &start) < distance(&much, &start), "{scheduler:?}");
        let none = refusal(&base, from(0.1));
        assert!(none.contains("noise_strength"), "{none}");
    }
}

/// What the decoder makes of latents.
fn decoded(base: &BaseModel, latents: &[f32], width: usize, height: usize) -> Vec<f32> {
    let (width, height) = (width / base.vae.factor(), height / base.vae.factor());
    let latents = Tensor::from_slice(latents, (1, 4, height, width), &base.device).unwrap();
    let image = base.vae.decode(&(latents / base.vae.scaling_factor()).unwrap()).unwrap();
    let image: Vec<f32> = image.flatten_all().unwrap().to_vec1().unwrap();
    image.into_iter().map(|value| (value / 2.0 + 0.5).clamp(0.0, 1.0)).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum()
}

#[test]
fn an_image_to_start_from_is_cut_in_its_middle() {
    let base = base_model();
    let side = 8 * base.vae.factor();
    // Grey on both sides of a coloured square.
    let wide = image::RgbImage::from_fn(4 * side as u32, 2 * side as u32, |x, _| {
        let inside = (side as u32..3 * side as u32).contains(&x);
        image::Rgb(if inside { [200, 40, 90] } else { [128; 3] })
    });
    let square = image::RgbImage::from_pixel(side as u32, side as u32, image::Rgb([200, 40, 90]));

    let of_wide = encode_init(&base, &wide, side, side).unwrap();
    let of_square = encode_init(&base, &square, side, side).unwrap();

    assert!(of_wide == of_square);
}

#[test]
fn a_preview_is_the_image_at_the_last_step_and_small() {
    let base = base_model();
    let request = any_request(&base);
    let large =
        SampleRequest { width: 70 * base.vae.factor(), num_inference_steps: 1, ..request.clone() };
    let mut state = DenoisingState::new(&base, &request).unwrap();
    assert!(state.preview(&base).unwrap().is_none());
    while state.remaining() > 0 {
        step(&base, &mut [&mut state]).unwrap();
    }
    let mut wide = DenoisingState::new(&base, &large).unwrap();
    step(&base, &mut [&mut wide]).unwrap();

    let preview = state.preview(&base).unwrap().unwrap();
    let finished = &generate(&base, std::slice::from_ref(&request))[0];
    let (sum, count) = (preview.as_raw().iter().zip(finished), finished.len() as f32);
    let off: f32 = sum.map(|(a, b)| f32::from(a.abs_diff(*b))).sum::<f32>() / count;
    assert!(off < 4.0, "{off} of 255: the last step of DDIM ends near its own x0");
    let small = wide.preview(&base).unwrap().unwrap();
    let factor = base.vae.factor() as u32;
    assert_eq!(small.dimensions(), (24 * factor, 3 * factor), "70 by 8 cells, three to one");
}

#[test]
fn a_prompt_over_the_limit_is_refused_with_its_length() {
    let base = base_model();

    let text = refusal(&base, SampleRequest { prompt: "a ".repeat(76), ..any_request(&base) });

    assert!(text.contains("a a a") && text.contains("78") && text.contains("77"), "{text}");
    let fits =
        SampleRequest { prompt: "a ".repeat(75), num_inference_steps: 1, ..any_request(&base) };
    assert_eq!(generate(&base, &[fits]).len(), 1);
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
    assert_eq!(generate(&base, &[known]).len(), 1);
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
