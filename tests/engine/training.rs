//! A training on the tiny base model: deterministic, stoppable, and it changes what it should.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use image::{Rgb, RgbImage};
use vstar::domain::concept::{ClassNoun, ConceptWords, ModifierToken};
use vstar::domain::training::{Learn, LrScheduler, TrainingRecipe};
use vstar::engine::ops::{Precision, TrainingCopies};
use vstar::engine::{
    BaseModel, CaptionedImage, Delta, DeltaWeights, EngineError, FineTuning, Flow, TokenStart,
    TrainerState, TrainingConcept, TrainingInput, TrainingPhase, TrainingProgress, train,
};

use crate::devices::test_devices;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny")
}

fn tiny_on(device: &Device) -> BaseModel {
    BaseModel::load(&folder(), device).unwrap()
}

fn photo(shade: u8) -> RgbImage {
    RgbImage::from_fn(80, 64, |x, y| Rgb([shade, (x * 3) as u8, (y * 4) as u8]))
}

fn input(modifier_token: Option<&str>, steps: usize, seed: u64) -> TrainingInput {
    let concept = TrainingConcept {
        words: ConceptWords {
            modifier_token: modifier_token
                .map(|token| ModifierToken::try_from(token.to_owned()).unwrap()),
            class_noun: ClassNoun::try_from("dog".to_owned()).unwrap(),
        },
        images: (0..4).map(|i| photo(60 * i)).collect(),
        guides: Vec::new(),
        class_images: vec![CaptionedImage {
            image: photo(128).into(),
            caption: "a dog on the beach".into(),
        }],
    };
    let recipe = TrainingRecipe {
        max_train_steps: steps,
        instance_batch_size: 2,
        class_batch_size: 1,
        learning_rate: 1e-3,
        initializer_tokens: vec!["ktn</w>".into()],
        ..TrainingRecipe::paper()
    };
    TrainingInput { concepts: vec![concept], recipe, seed, memory_budget: None }
}

#[test]
fn the_same_training_gives_the_same_bytes() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let run = |seed| {
            let input = input(Some("<rex>"), 3, seed);
            let delta = train(&base, &input, &mut |_| Flow::Continue).unwrap();
            delta.to_safetensors().unwrap()
        };

        let (first, again, other_seed) = (run(7), run(7), run(8));

        assert!(first == again, "two runs with one seed differ");
        assert!(first != other_seed, "the seed changes nothing");
    }
}

#[test]
fn captions_and_masks_of_photos_enter_the_training() {
    use image::{GrayImage, Luma};
    use vstar::engine::Guide;

    for device in test_devices() {
        let base = tiny_on(&device);
        let run = |guide: Option<Guide>| {
            let mut input = input(Some("<rex>"), 3, 7);
            let concept = &mut input.concepts[0];
            concept.guides = vec![guide.unwrap_or_default(); concept.images.len()];
            let delta = train(&base, &input, &mut |_| Flow::Continue).unwrap();
            delta.to_safetensors().unwrap()
        };
        let mask = |white: u32| {
            let image = GrayImage::from_fn(80, 64, |x, _| Luma([255 * u8::from(x < white)]));
            Guide { mask: Some(image), caption: None }
        };
        let caption = |text: &str| Guide { caption: Some(text.to_owned()), mask: None };
        let plain = train(&base, &input(Some("<rex>"), 3, 7), &mut |_| Flow::Continue).unwrap();
        let plain = plain.to_safetensors().unwrap();

        assert!(run(None) == plain, "nothing is known of the photos");
        assert!(run(Some(mask(80))) == plain, "a mask that keeps all of a photo changes nothing");
        assert!(
            run(Some(caption("photo of a <rex> dog"))) == plain,
            "the caption is the template's"
        );
        assert!(run(Some(mask(40))) != plain, "a mask that keeps a half of it does");
        assert!(run(Some(mask(40))) == run(Some(mask(40))));
        assert!(run(Some(caption("a <rex> dog asleep"))) != plain);
    }
}

#[test]
fn a_training_moves_every_projection_and_the_modifier_row() {
    for device in test_devices() {
        let base = tiny_on(&device);

        let delta = train(&base, &input(Some("<rex>"), 2, 7), &mut |_| Flow::Continue).unwrap();

        let DeltaWeights::Dense(weights) = &delta.weights else {
            panic!("a training's delta is dense")
        };
        for layer in base.unet.cross_attention() {
            for (name, before) in [("to_k", &layer.to_k), ("to_v", &layer.to_v)] {
                let host =
                    |x: &Tensor| x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
                let after = host(&weights[&format!("{}.{name}.weight", layer.name)]);
                let moved = (after - host(before)).unwrap().abs().unwrap().max_all().unwrap();
                let moved = moved.to_scalar::<f32>().unwrap();
                assert!(moved > 1e-5, "{}.{name} moved by {moved}", layer.name);
            }
        }
        let token_id = base.prompt_encoder.token_id("ktn</w>").unwrap();
        let initial = base.prompt_encoder.embedding_row(token_id).unwrap();
        assert_ne!(delta.concepts[0].embedding_row.as_ref().unwrap(), &initial);
    }
}

#[test]
fn a_concept_without_a_modifier_has_no_embedding_row() {
    for device in test_devices() {
        let base = tiny_on(&device);

        let delta = train(&base, &input(None, 1, 7), &mut |_| Flow::Continue).unwrap();

        assert!(delta.concepts[0].embedding_row.is_none());
        assert_eq!(delta.concepts[0].words.class_noun.as_str(), "dog");
    }
}

#[test]
fn a_training_stops_at_the_step_where_its_observer_says_so() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let mut last = 0;

        let result = train(&base, &input(Some("<rex>"), 50, 7), &mut |progress| {
            if progress.phase == TrainingPhase::Optimizing {
                last = progress.step;
            }
            if last == 2 { Flow::Stop } else { Flow::Continue }
        });

        assert!(matches!(result, Err(EngineError::Stopped)));
        assert_eq!(last, 2);
    }
}

/// Stops a training after its `step`-th optimizer step.
fn stop_after(step: usize) -> impl FnMut(&TrainingProgress) -> Flow {
    move |progress| match progress.phase {
        TrainingPhase::Optimizing if progress.step == step => Flow::Stop,
        TrainingPhase::Encoding | TrainingPhase::Optimizing => Flow::Continue,
    }
}

#[test]
fn a_training_restored_from_its_state_gives_the_same_bytes() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let mut input = input(Some("<rex>"), 6, 7);
        input.recipe.lr_scheduler = LrScheduler::Cosine;
        input.recipe.lr_warmup_steps = 3;
        let whole = train(&base, &input, &mut |_| Flow::Continue).unwrap();

        for step in [1, 4] {
            let mut first = FineTuning::new(&base, &input).unwrap();
            let stopped = first.run(&mut stop_after(step));
            assert!(matches!(stopped, Err(EngineError::Stopped)));
            let state = first.state();
            // A state is not touched by what its trainer does afterwards.
            first.run(&mut |_| Flow::Continue).unwrap();

            let mut second = FineTuning::new(&base, &input).unwrap();
            assert_eq!(state.step, step);
            second.restore(state).unwrap();
            second.run(&mut |_| Flow::Continue).unwrap();

            let bytes =
                |training: &FineTuning<'_>| training.delta().unwrap().to_safetensors().unwrap();
            assert!(bytes(&first) == whole.to_safetensors().unwrap(), "continued after {step}");
            assert!(bytes(&second) == whole.to_safetensors().unwrap(), "restored at {step}");
        }
    }
}

/// What a training gives that was stopped after each of its steps, and each time went on from a file as in a new process.
fn resumed_after_each_step(
    base: &BaseModel,
    input: &TrainingInput,
    start_from: Option<&Delta>,
) -> Vec<u8> {
    let start = || FineTuning::starting_from(base, input, start_from).unwrap();
    let mut training = start();
    for step in 1..=input.recipe.max_train_steps {
        let mut file = Vec::new();
        let result = training.run_observed(&mut |progress, state| {
            if progress.phase != TrainingPhase::Optimizing {
                return Flow::Continue;
            }
            assert_eq!(progress.step, step);
            file = state.unwrap()().on_host().unwrap().to_safetensors().unwrap();
            Flow::Stop
        });
        assert!(matches!(result, Err(EngineError::Stopped)));

        training = start();
        let state = TrainerState::from_safetensors(&file).unwrap();
        assert_eq!(state.step, step);
        training.restore(state).unwrap();
    }
    training.run(&mut |_| Flow::Continue).unwrap();
    training.delta().unwrap().to_safetensors().unwrap()
}

#[test]
fn a_training_resumed_from_a_file_after_each_step_gives_the_same_bytes() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let mut plain = input(Some("<rex>"), 6, 7);
        plain.recipe.lr_scheduler = LrScheduler::Cosine;
        plain.recipe.lr_warmup_steps = 3;
        let mut low_rank = input(Some("<rex>"), 4, 8);
        low_rank.recipe.rank = Some(3);
        let mut value_alone = input(None, 4, 9);
        value_alone.recipe.learn = Learn { key: false, value: true, modifier_token: true };
        let mut short_of_memory = input(Some("<rex>"), 4, 10);
        short_of_memory.memory_budget = Some(1 << 20);
        let mut candidates = with_candidates([220, 30, 30]);
        candidates.recipe.max_train_steps = 4;
        let first = train(&base, &input(Some("<dot>"), 3, 5), &mut |_| Flow::Continue).unwrap();

        for (what, input, start_from) in [
            ("plain", &plain, None),
            ("with a rank", &low_rank, None),
            ("values alone", &value_alone, None),
            ("short of memory", &short_of_memory, None),
            ("with candidates", &candidates, None),
            ("going on from a delta", &low_rank, Some(&first)),
        ] {
            let mut whole = FineTuning::starting_from(&base, input, start_from).unwrap();
            whole.run(&mut |_| Flow::Continue).unwrap();
            let whole = whole.delta().unwrap().to_safetensors().unwrap();
            let resumed = resumed_after_each_step(&base, input, start_from);
            assert!(resumed == whole, "{what}");
        }
    }
}

#[test]
fn matrices_are_copied_for_a_training_unless_its_memory_is_limited() {
    let base = tiny_on(&Device::Cpu);
    let copies =
        [base.unet.training_copies(), base.prompt_encoder.text_encoder().training_copies()];
    let held = || copies.map(TrainingCopies::are_held);
    let mut input = input(Some("<rex>"), 4, 7);

    let training = FineTuning::starting_from(&base, &input, None).unwrap();
    assert_eq!(held(), [true; 2]);
    drop(training);
    assert_eq!(held(), [false; 2]);
    input.memory_budget = Some(1 << 30);
    let _training = FineTuning::starting_from(&base, &input, None).unwrap();
    assert_eq!(held(), [false; 2]);
}

#[test]
fn a_state_on_disk_is_the_state_to_the_bit() {
    let base = tiny_on(&Device::Cpu);
    let input = input(Some("<rex>"), 2, 7);
    let mut training = FineTuning::new(&base, &input).unwrap();
    training.run(&mut |_| Flow::Continue).unwrap();
    let state = training.state();

    let file = state.to_safetensors().unwrap();
    let read = TrainerState::from_safetensors(&file).unwrap();

    assert!(read.to_safetensors().unwrap() == file, "the same state, other bytes");
    assert_eq!((read.step, read.parameters.len()), (2, state.parameters.len()));
    let bits = |x: &Tensor| -> Vec<u32> {
        let values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    for (read, state) in read.parameters.iter().zip(&state.parameters) {
        assert_eq!((&read.name, read.value.dims()), (&state.name, state.value.dims()));
        assert!(bits(&read.value) == bits(&state.value), "{}", read.name);
        assert!(bits(&read.first_moment) == bits(&state.first_moment), "{}", read.name);
        assert!(bits(&read.second_moment) == bits(&state.second_moment), "{}", read.name);
        assert!(bits(&read.second_moment).iter().any(|bits| *bits != 0), "{}", read.name);
    }
}

#[test]
fn what_is_no_whole_state_is_refused() {
    let base = tiny_on(&Device::Cpu);
    let input = input(Some("<rex>"), 1, 7);
    let training = FineTuning::new(&base, &input).unwrap();
    let file = training.state().to_safetensors().unwrap();
    let refused = |bytes: &[u8]| match TrainerState::from_safetensors(bytes) {
        Err(EngineError::InvalidInput(text)) => text,
        other => panic!("{other:?}"),
    };

    let mut other_format = file.clone();
    let place = file.windows(7).position(|part| part == b"state-1").unwrap();
    other_format[place + 6] = b'9';

    for part in [0, 4, file.len() / 2, file.len() - 1] {
        assert!(refused(&file[..part]).contains("not a training's state"), "{part} bytes");
    }
    assert!(refused(&other_format).contains("vstar-training-state-1"));
}

#[test]
fn a_state_of_other_parameters_is_refused() {
    let base = tiny_on(&Device::Cpu);
    let (with, without) = (input(Some("<rex>"), 1, 7), input(None, 1, 7));
    let mut training = FineTuning::new(&base, &with).unwrap();
    let before = training.state();
    let mut refused = |state: TrainerState| match training.restore(state) {
        Err(EngineError::InvalidInput(text)) => text,
        other => panic!("{other:?}"),
    };

    let other = refused(FineTuning::new(&base, &without).unwrap().state());
    let mut cut = before;
    cut.parameters[0].second_moment = cut.parameters[0].second_moment.narrow(0, 0, 1).unwrap();
    let cut = refused(cut);

    assert!(
        other.contains("other parameters") && cut.contains("other parameters"),
        "{other} {cut}"
    );
}

#[test]
fn a_training_in_f16_is_refused_because_its_gradients_would_be_wrong() {
    let load =
        |dtype| BaseModel::load_as(&folder(), &Device::Cpu, dtype, Precision::default()).unwrap();
    let input = input(Some("<rex>"), 1, 7);

    let error = FineTuning::new(&load(DType::F16), &input).err().unwrap();

    assert!(matches!(&error, EngineError::InvalidInput(text) if text.contains("f16")), "{error}");
    assert!(FineTuning::new(&load(DType::BF16), &input).is_ok());
}

#[test]
fn an_initializer_outside_the_vocabulary_is_named() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let mut input = input(Some("<rex>"), 1, 7);
        input.recipe.initializer_tokens = vec!["zebra-crossing".into()];

        let error = train(&base, &input, &mut |_| Flow::Continue).err().unwrap();

        assert!(error.to_string().contains("`zebra-crossing`"), "{error}");
    }
}

#[test]
fn a_modifier_row_starts_from_the_candidate_with_the_least_loss_on_the_photos() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let of_photos = |color| {
            let mut input = with_candidates(color);
            input.recipe.token_learning_rate_factor = 0.0;
            let mut fine_tuning = FineTuning::new(&base, &input).unwrap();
            fine_tuning.run(&mut |_| Flow::Continue).unwrap();
            (fine_tuning.delta().unwrap(), fine_tuning.starts().to_vec())
        };

        for (color, name) in [([220, 30, 30], "red</w>"), ([30, 200, 30], "green</w>")] {
            let (delta, starts) = of_photos(color);

            let id = base.prompt_encoder.token_id(name).unwrap();
            let row = base.prompt_encoder.embedding_row(id).unwrap();
            assert_eq!(delta.concepts[0].embedding_row.as_ref(), Some(&row), "{name}");
            assert_eq!(starts[0].1, TokenStart::Entry(name.to_owned()));
            // At strength 0 the token means nothing, so that the prompt shows the plain class.
            assert_eq!(delta.concepts[0].initializer_token.as_deref(), Some("ktn</w>"));
        }
    }
}

/// A training of photos of one color, with two colors as candidates.
fn with_candidates(color: [u8; 3]) -> TrainingInput {
    let mut input = input(Some("<rex>"), 3, 7);
    input.concepts[0].images = vec![RgbImage::from_pixel(64, 64, Rgb(color)); 4];
    input.recipe.initializer_candidates = vec!["green</w>".into(), "red</w>".into()];
    input
}

#[test]
fn a_training_with_candidates_gives_the_same_bytes_when_restored() {
    let base = tiny_on(&Device::Cpu);
    let input = with_candidates([220, 30, 30]);
    let whole = train(&base, &input, &mut |_| Flow::Continue).unwrap();
    let mut first = FineTuning::new(&base, &input).unwrap();
    assert!(matches!(first.run(&mut stop_after(2)), Err(EngineError::Stopped)));

    let mut second = FineTuning::new(&base, &input).unwrap();
    second.restore(first.state()).unwrap();
    second.run(&mut |_| Flow::Continue).unwrap();

    let restored = second.delta().unwrap().to_safetensors().unwrap();
    assert!(restored == whole.to_safetensors().unwrap());
}

#[test]
fn a_training_stops_while_it_compares_candidates() {
    let base = tiny_on(&Device::Cpu);
    let input = with_candidates([220, 30, 30]);
    let mut last = (0, 0);

    let result = train(&base, &input, &mut |progress| {
        assert_eq!(progress.phase, TrainingPhase::Encoding);
        assert!(progress.step > last.0, "{progress:?} after {last:?}");
        last = (progress.step, progress.total_steps);
        // Two comparisons for each of eight batches follow the images.
        if last.0 + 1 == last.1 { Flow::Stop } else { Flow::Continue }
    });

    assert!(matches!(result, Err(EngineError::Stopped)));
    assert_eq!(last.0 + 1, last.1);
}

#[test]
fn a_row_that_was_learned_has_a_binding_gain_and_one_that_stayed_rare_has_none() {
    let base = tiny_on(&Device::Cpu);
    let gain = |steps, token_learning_rate_factor, candidates: &[&str]| {
        let mut input = input(Some("<rex>"), steps, 1);
        input.concepts[0].words.class_noun = ClassNoun::try_from("cat".to_owned()).unwrap();
        input.concepts[0].images = photos_of("cat");
        input.concepts[0].class_images = class_images_of("cat", 8);
        input.recipe.instance_batch_size = 3;
        input.recipe.learning_rate = 6e-3;
        input.recipe.token_learning_rate_factor = token_learning_rate_factor;
        input.recipe.size_augmentation = false;
        input.recipe.initializer_candidates = candidates.iter().map(|c| (*c).into()).collect();
        let mut fine_tuning = FineTuning::new(&base, &input).unwrap();
        fine_tuning.run(&mut |_| Flow::Continue).unwrap();
        fine_tuning.binding_gains().to_vec()
    };

    let (learned, rare) = (gain(100, 2.0, &["pink</w>"]), gain(10, 0.0, &[]));

    assert!(learned.len() == 1 && learned[0] > 0.02, "{learned:?}");
    assert!(rare == [0.0], "{rare:?}");
}

/// Photos of one of the demo's concepts.
fn photos_of(concept: &str) -> Vec<RgbImage> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/concepts").join(concept);
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.map(|file| image::open(file).unwrap().to_rgb8()).collect()
}

/// The first of the model's class images whose caption has the noun.
fn class_images_of(noun: &str, count: usize) -> Vec<CaptionedImage> {
    let zip = std::fs::File::open(folder().join("class_images.zip")).unwrap();
    let mut zip = zip::ZipArchive::new(zip).unwrap();
    let metadata = std::io::read_to_string(zip.by_name("metadata.jsonl").unwrap()).unwrap();
    let lines = metadata.lines().map(|line| serde_json::from_str(line).unwrap());
    let of_noun = lines.filter(|line: &serde_json::Value| {
        line["text"].as_str().unwrap().split([' ', ',']).any(|word| word == noun)
    });
    let mut read = |line: serde_json::Value| {
        let mut file = zip.by_name(line["file_name"].as_str().unwrap()).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        let image = image::load_from_memory(&bytes).unwrap().to_rgb8();
        CaptionedImage { image: image.into(), caption: line["text"].as_str().unwrap().to_owned() }
    };
    of_noun.take(count).map(&mut read).collect()
}

#[test]
fn a_candidate_outside_the_vocabulary_is_named() {
    let base = tiny_on(&Device::Cpu);
    let mut input = input(Some("<rex>"), 1, 7);
    input.recipe.initializer_candidates = vec!["zebra-crossing".into()];

    let error = train(&base, &input, &mut |_| Flow::Continue).err().unwrap();

    assert!(error.to_string().contains("initializer_candidates: `zebra-crossing`"), "{error}");
}
