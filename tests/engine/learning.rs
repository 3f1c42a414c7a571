//! What a training learns: keys, values, modifier tokens, whole matrices or factors, from the base model or from a delta.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::{Rgb, RgbImage};
use vstar::class_images::ClassImageSet;
use vstar::domain::concept::{ClassNoun, ConceptWords, ModifierToken};
use vstar::domain::merge::MergeRecipe;
use vstar::domain::training::{Learn, TrainingRecipe};
use vstar::engine::random::{Purpose, Random};
use vstar::engine::schedulers::PredictionType;
use vstar::engine::unet::Activations;
use vstar::engine::{
    BaseModel, Batch, ConceptUse, Delta, DeltaWeights, EngineError, FineTuning, Flow, Merge,
    MergePack, Method, Objective, PackUse, Parameters, RegularizationStatistics, Start, TokenStart,
    TrainingConcept, TrainingInput, TrainingPhase, condition_prompt, kv_weights, loss_gradient,
    train, weight_change,
};

const KEY: Learn = Learn { key: true, value: false, modifier_token: false };
const VALUE: Learn = Learn { key: false, value: true, modifier_token: false };
const TOKEN: Learn = Learn { key: false, value: false, modifier_token: true };
const ALL: Learn = Learn { key: true, value: true, modifier_token: true };

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny"))
}

fn tiny() -> BaseModel {
    BaseModel::load(folder(), &Device::Cpu).unwrap()
}

fn normals(shape: &[usize], index: u64) -> Tensor {
    let mut values = vec![0.0; shape.iter().product()];
    Random::new(3, Purpose::Noise, index, 0).normals(&mut values);
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn recipe(learn: Learn, rank: Option<usize>) -> TrainingRecipe {
    TrainingRecipe {
        max_train_steps: 3,
        instance_batch_size: 2,
        class_batch_size: 0,
        learning_rate: 2e-3,
        initializer_tokens: vec!["ktn</w>".into()],
        learn,
        rank,
        ..TrainingRecipe::paper()
    }
}

fn words(modifier_token: Option<&str>, class_noun: &str) -> ConceptWords {
    ConceptWords {
        modifier_token: modifier_token
            .map(|token| ModifierToken::try_from(token.to_owned()).unwrap()),
        class_noun: ClassNoun::try_from(class_noun.to_owned()).unwrap(),
    }
}

fn input(words: ConceptWords, learn: Learn, rank: Option<usize>) -> TrainingInput {
    let photo =
        |shade: u8| RgbImage::from_fn(64, 64, |x, y| Rgb([shade, (x * 3) as u8, (y * 4) as u8]));
    let images = (0..4).map(|i| photo(60 * i)).collect();
    TrainingInput {
        concepts: vec![TrainingConcept {
            words,
            images,
            guides: Vec::new(),
            class_images: Vec::new(),
        }],
        recipe: recipe(learn, rank),
        seed: 7,
        memory_budget: None,
    }
}

fn learned(base: &BaseModel, learn: Learn, rank: Option<usize>) -> Delta {
    let input = input(words(Some("<rex>"), "dog"), learn, rank);
    train(base, &input, &mut |_| Flow::Continue).unwrap()
}

/// Two captions with a modifier token and one without.
fn batch(base: &BaseModel) -> Batch {
    let vocab_size = base.prompt_encoder.vocab_size() as u32;
    let ids = |text: &str| {
        let tokens = base.prompt_encoder.tokenize(text, &["<rex>"]).unwrap();
        assert!(tokens.ids.iter().all(|&id| id <= vocab_size));
        tokens.ids
    };
    let channels = base.unet.config().in_channels;
    Batch {
        latents: normals(&[3, channels, 16, 16], 1),
        noise: normals(&[3, channels, 16, 16], 2),
        timesteps: vec![100, 500, 900],
        input_ids: vec![ids("photo of a <rex> dog"), ids("a <rex> dog"), ids("a cat")],
        mask: Tensor::ones((3, 1, 16, 16), DType::F32, &Device::Cpu).unwrap(),
        is_class_image: vec![false, false, true],
    }
}

fn objective() -> Objective {
    Objective {
        prediction_type: PredictionType::Epsilon,
        prior_loss_weight: 1.0,
        activations: Activations::default(),
    }
}

fn rare_row(base: &BaseModel) -> Vec<f32> {
    let id = base.prompt_encoder.token_id("ktn</w>").unwrap();
    base.prompt_encoder.embedding_row(id).unwrap()
}

fn row(base: &BaseModel) -> Tensor {
    Tensor::new(rare_row(base), &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

fn parameters(base: &BaseModel, learn: Learn, rank: Option<usize>, start: &Start) -> Parameters {
    let recipe = TrainingRecipe { detach_first_token: false, ..recipe(learn, rank) };
    Parameters::starting_from(base.into(), Some(row(base)), &recipe, start).unwrap()
}

fn gradients(base: &BaseModel, parameters: &mut Parameters) -> BTreeMap<&'static str, Tensor> {
    let batch = batch(base);
    let gradient = loss_gradient(parameters, base.into(), &batch, objective()).unwrap();
    let names: Vec<&str> = parameters.parameters().iter().map(|one| one.name).collect();
    assert_eq!(names.len(), gradient.gradients.len());
    names.into_iter().zip(gradient.gradients).collect()
}

fn norm(tensor: &Tensor) -> f64 {
    let sum = tensor.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap();
    sum.to_scalar::<f64>().unwrap().sqrt()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    norm(&(a - b).unwrap()) / norm(b)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The golden cases have the gradient of whole projections; what else is trained does not matter for it.
#[test]
fn a_part_that_is_learned_alone_has_the_gradient_that_it_has_among_all() {
    let base = tiny();
    let start = Start::default();
    let mut all = parameters(&base, ALL, None, &start);
    let of_all = gradients(&base, &mut all);
    let whole = all.by_name(&of_all["projections"]).unwrap();
    let token = &of_all["modifier_rows"];

    for (learn, count) in [(KEY, 1), (VALUE, 1)] {
        for with_token in [false, true] {
            let learn = Learn { modifier_token: with_token, ..learn };
            let mut part = parameters(&base, learn, None, &start);

            let of_part = gradients(&base, &mut part);

            assert_eq!(of_part.len(), count + usize::from(with_token), "{learn:?}");
            let matrices = part.by_name(&of_part["projections"]).unwrap();
            assert_eq!(matrices.len(), whole.len() / 2);
            for (name, gradient) in matrices {
                assert_eq!(name.contains("to_k"), learn.key, "{name} of {learn:?}");
                let distance = distance(&gradient, &whole[&name]);
                assert!(distance < 1e-5, "{name} of {learn:?}: {distance}");
            }
            if with_token {
                let distance = distance(&of_part["modifier_rows"], token);
                assert!(distance < 1e-5, "token of {learn:?}: {distance}");
            }
        }
    }
    let alone = gradients(&base, &mut parameters(&base, TOKEN, None, &start));
    assert_eq!(alone.len(), 1);
    assert!(distance(&alone["modifier_rows"], token) < 1e-5);
}

#[test]
fn every_gradient_matches_finite_differences() {
    let base = tiny();
    // As after some steps: other matrices than the base model's, and factors that are not zero.
    let moved = |(index, (name, weight)): (usize, (String, Tensor))| {
        let noise = (normals(weight.dims(), 10 + index as u64) * 0.02).unwrap();
        (name, (weight + noise).unwrap())
    };
    let weights = kv_weights(base.unet.cross_attention());
    let start =
        Start { projections: weights.into_iter().enumerate().map(moved).collect(), seed: 3 };
    for (learn, rank) in [
        (ALL, None),
        (Learn { value: false, ..ALL }, None),
        (Learn { key: false, ..ALL }, Some(3)),
        (ALL, Some(2)),
        (TOKEN, None),
    ] {
        let mut parameters = parameters(&base, learn, rank, &start);
        let mut at: Vec<Tensor> =
            parameters.parameters().iter().map(|one| one.value.clone()).collect();
        let names: Vec<&str> = parameters.parameters().iter().map(|one| one.name).collect();
        if let Some(b) = names.iter().position(|name| *name == "lora_b") {
            at[b] = (normals(at[b].dims(), 50) * 0.02).unwrap();
            parameters.set_parameters(at.clone());
        }
        let gradients = gradients(&base, &mut parameters);
        for (place, name) in names.iter().enumerate() {
            let gradient = &gradients[name];
            let direction = (gradient
                + (normals(gradient.dims(), 60) * (norm(gradient) * 0.05)).unwrap())
            .unwrap();
            let direction = (&direction / norm(&direction)).unwrap();
            let expected = (gradient * &direction).unwrap().sum_all().unwrap();
            let expected = f64::from(expected.to_scalar::<f32>().unwrap());
            let step = 0.004 * norm(&at[place]).min(1.0) / expected.max(1e-3).sqrt();
            let mut loss = |sign: f64| {
                let mut moved = at.clone();
                moved[place] = (&at[place] + (&direction * (sign * step)).unwrap()).unwrap();
                parameters.set_parameters(moved);
                let batch = batch(&base);
                let found = loss_gradient(&mut parameters, (&base).into(), &batch, objective());
                f64::from(found.unwrap().loss)
            };
            let slope = (loss(1.0) - loss(-1.0)) / (2.0 * step);
            parameters.set_parameters(at.clone());
            assert!(
                (slope - expected).abs() < 0.02 * expected,
                "{name} of {learn:?} at rank {rank:?}: {slope}, the gradient says {expected}"
            );
        }
    }
}

#[test]
fn a_delta_has_what_was_learned_and_nothing_else() {
    let base = tiny();
    let weights = kv_weights(base.unet.cross_attention());
    let start = rare_row(&base);
    for (learn, rank) in [
        (ALL, None),
        (KEY, None),
        (VALUE, None),
        (TOKEN, None),
        (Learn { key: false, ..ALL }, Some(2)),
        (ALL, Some(1)),
    ] {
        let delta = learned(&base, learn, rank);

        let names = delta.weights.names();
        let layers = base.unet.cross_attention().len();
        assert_eq!(
            names.iter().filter(|name| name.contains("to_k")).count(),
            layers * usize::from(learn.key)
        );
        assert_eq!(
            names.iter().filter(|name| name.contains("to_v")).count(),
            layers * usize::from(learn.value)
        );
        for (name, matrix) in delta.densify(&base).unwrap() {
            assert!(distance(&matrix, &weights[&name]) > 1e-4, "{name} of {learn:?}");
        }
        let row = delta.concepts[0].embedding_row.as_ref().unwrap();
        assert_eq!(*row != start, learn.modifier_token, "{learn:?}");
        let bytes = delta.to_safetensors().unwrap();
        let read = Delta::from_safetensors(&bytes).unwrap();
        read.check_base(&base).unwrap();
        assert_eq!(read.weights.names(), names);
        if let (Some(rank), DeltaWeights::Factorized(factors)) = (rank, &read.weights) {
            assert!(factors.values().all(|one| one.p.dim(0).unwrap() == rank));
        } else {
            assert!(matches!((rank, &read.weights), (None, DeltaWeights::Dense(_))));
        }
    }
}

#[test]
fn a_low_rank_training_starts_from_the_base_model_and_depends_on_its_seed() {
    let base = tiny();
    let factors = |seed| {
        let start = Start { seed, ..Start::default() };
        let parameters = parameters(&base, ALL, Some(4), &start);
        let own = parameters.parameters();
        (values(own[0].value), values(own[1].value))
    };

    let ((a, b), (other, _)) = (factors(1), factors(2));

    assert!(b.iter().all(|&value| value == 0.0));
    assert_eq!(factors(1).0, a);
    assert_ne!(a, other);
    let variance = a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>() / a.len() as f64;
    let width = base.prompt_encoder.hidden_size() as f64;
    assert!((variance * width - 1.0).abs() < 0.05, "{variance}");
}

#[test]
fn a_token_alone_changes_prompts_that_name_it_and_no_others() {
    let base = tiny();
    let delta = Arc::new(learned(&base, TOKEN, None));
    let key_values = |prompt: &str, concepts: &[ConceptUse]| {
        let made = condition_prompt(&base, prompt, concepts).unwrap();
        made.layers.iter().flat_map(|kv| [values(&kv.key), values(&kv.value)]).collect::<Vec<_>>()
    };
    let used = [ConceptUse { delta: delta.clone(), strength: 1.0 }];

    let with = key_values("a <rex> dog on the beach", &used);

    assert_ne!(with, key_values("a dog on the beach", &[]));
    assert_eq!(key_values("a dog on the beach", &used), key_values("a dog on the beach", &[]));
    let faint = [ConceptUse { delta, strength: 0.5 }];
    assert_ne!(with, key_values("a <rex> dog on the beach", &faint));
}

#[test]
fn a_token_alone_of_no_concept_is_refused_and_so_is_a_delta_of_nothing() {
    let base = tiny();
    let input = input(words(None, "gate"), TOKEN, None);
    let error = FineTuning::new(&base, &input).err().unwrap().to_string();
    assert!(error.contains("learn key or value as well"), "{error}");

    let mut nothing = learned(&base, TOKEN, None);
    nothing.concepts[0].embedding_row = None;
    nothing.concepts[0].words.modifier_token = None;
    let error = nothing.check_base(&base).unwrap_err().to_string();
    assert!(error.contains("would change nothing"), "{error}");
}

#[test]
fn keys_of_some_layers_alone_are_refused() {
    let base = tiny();
    for (learn, rank) in [(KEY, None), (ALL, None), (VALUE, Some(2))] {
        let mut delta = learned(&base, learn, rank);
        let removed = match &mut delta.weights {
            DeltaWeights::Dense(matrices) => matrices.pop_first().unwrap().0,
            DeltaWeights::Factorized(factors) => factors.pop_first().unwrap().0,
            DeltaWeights::LowRank { .. } => panic!("not learned"),
        };

        let error = delta.check_base(&base).unwrap_err();

        assert!(
            matches!(&error, EngineError::WeightMissing { name, .. } if *name == removed),
            "{error}"
        );
    }
}

#[test]
fn partial_and_factorized_deltas_merge() {
    let base = tiny();
    let captions = ClassImageSet::open(&folder().join("class_images.zip")).unwrap().captions();
    let statistics = RegularizationStatistics::new(&base, &captions).unwrap();
    let pack = |delta: &Delta| PackUse {
        pack: Arc::new(MergePack::build(&base, delta, 1.0).unwrap()),
        strength: 1.0,
    };
    let cat = {
        let input = input(words(Some("<tom>"), "cat"), ALL, None);
        train(&base, &input, &mut |_| Flow::Continue).unwrap()
    };
    let recipe = MergeRecipe::default();
    for (learn, rank) in [(TOKEN, None), (KEY, None), (ALL, Some(2))] {
        let rex = learned(&base, learn, rank);

        let merge = Merge::new(&statistics, &[pack(&rex), pack(&cat)], &recipe).unwrap();

        let report = merge.report(&statistics, &recipe).unwrap();
        let numbers = report.deltas.iter().chain([&report.constraint_error, &report.drift]);
        assert!(numbers.clone().all(|number| *number >= 0.0 && *number < 10.0), "{report:?}");
        let merged = merge.to_delta(&base, &recipe).unwrap();
        merged.check_base(&base).unwrap();
        let rows: Vec<_> = merged.concepts.iter().map(|one| one.embedding_row.clone()).collect();
        assert_eq!(rows[0], rex.concepts[0].embedding_row);
    }
}

#[test]
fn a_training_goes_on_from_a_delta_and_keeps_its_concepts() {
    let base = tiny();
    let first = learned(&base, ALL, None);
    let mut input = input(words(Some("<tom>"), "cat"), ALL, None);

    let mut fine_tuning = FineTuning::starting_from(&base, &input, Some(&first)).unwrap();
    let start = fine_tuning.delta().unwrap();
    fine_tuning.run(&mut |_| Flow::Continue).unwrap();
    let second = fine_tuning.delta().unwrap();

    // Before the first step nothing is learned.
    let matrices = |delta: &Delta| delta.densify(&base).unwrap();
    for (name, matrix) in matrices(&first) {
        assert_eq!(values(&matrices(&start)[&name]), values(&matrix), "{name}");
    }
    assert_eq!(second.concepts.len(), 2);
    assert_eq!(second.concepts[0], first.concepts[0], "carried over as it was");
    assert_eq!(second.concepts[1].words, input.concepts[0].words);
    for (name, matrix) in matrices(&second) {
        let near_first = distance(&matrix, &matrices(&first)[&name]);
        assert!(near_first > 1e-5, "{name} has not moved");
    }
    // What is frozen stays what the first delta made of it.
    input.recipe.learn = TOKEN;
    let mut fine_tuning = FineTuning::starting_from(&base, &input, Some(&first)).unwrap();
    fine_tuning.run(&mut |_| Flow::Continue).unwrap();
    for (name, matrix) in matrices(&fine_tuning.delta().unwrap()) {
        assert_eq!(values(&matrix), values(&matrices(&first)[&name]), "{name}");
    }
}

#[test]
fn a_concept_that_is_trained_again_starts_from_its_own_row() {
    let base = tiny();
    let first = learned(&base, ALL, None);
    let mut again = input(words(Some("<rex>"), "dog"), KEY, None);
    again.recipe.initializer_candidates = vec!["red</w>".into(), "green</w>".into()];

    let mut fine_tuning = FineTuning::starting_from(&base, &again, Some(&first)).unwrap();
    let encoded = encoding_steps(&mut fine_tuning);
    let second = fine_tuning.delta().unwrap();

    assert_eq!(second.concepts, first.concepts, "its row was not trained");
    let from_the_base_model = encoding_steps(&mut FineTuning::new(&base, &again).unwrap());
    assert!(encoded < from_the_base_model, "there is nothing to choose among candidates");
    let row = first.concepts[0].embedding_row.clone().unwrap();
    let initializer_token = Some("ktn</w>".to_owned());
    assert_eq!(fine_tuning.starts()[0].1, TokenStart::Learned { row, initializer_token });
    let report = weight_change(&base, &second, &fine_tuning.starts()).unwrap();
    assert_eq!(report.token_change[0].change, Some(0.0));
    assert_eq!(report.weight_change.len(), 2 * base.unet.cross_attention().len());
}

/// Runs a training; returns how many images it encoded and candidates it compared.
fn encoding_steps(fine_tuning: &mut FineTuning<'_>) -> usize {
    let mut steps = 0;
    let ended = fine_tuning.run(&mut |step| {
        steps += usize::from(step.phase == TrainingPhase::Encoding);
        Flow::Continue
    });
    ended.unwrap();
    steps
}

#[test]
fn a_low_rank_training_on_top_of_factors_stays_in_factors() {
    let base = tiny();
    let first = learned(&base, Learn { key: false, ..ALL }, Some(2));
    let second = input(words(Some("<tom>"), "cat"), ALL, Some(3));

    let mut fine_tuning = FineTuning::starting_from(&base, &second, Some(&first)).unwrap();
    fine_tuning.run(&mut |_| Flow::Continue).unwrap();
    let second = fine_tuning.delta().unwrap();

    let DeltaWeights::Factorized(factors) = &second.weights else { panic!("factors") };
    for (name, one) in factors {
        let rank = if name.contains("to_v") { 5 } else { 3 };
        assert_eq!(one.p.dim(0).unwrap(), rank, "{name}");
    }
    // The same training on top of the same change in whole matrices ends in the same matrices.
    let whole = first.to_dense(&kv_weights(base.unet.cross_attention())).unwrap();
    let again = input(words(Some("<tom>"), "cat"), ALL, Some(3));
    let mut fine_tuning = FineTuning::starting_from(&base, &again, Some(&whole)).unwrap();
    fine_tuning.run(&mut |_| Flow::Continue).unwrap();
    let whole = fine_tuning.delta().unwrap();
    assert!(matches!(whole.weights, DeltaWeights::Dense(_)));
    for (name, matrix) in whole.densify(&base).unwrap() {
        let distance = distance(&second.densify(&base).unwrap()[&name], &matrix);
        assert!(distance < 1e-6, "{name}: {distance}");
    }
}

#[test]
fn a_training_of_parts_restored_from_its_state_gives_the_same_bytes() {
    let base = tiny();
    for (learn, rank) in [(KEY, None), (TOKEN, None), (ALL, Some(2))] {
        let mut input = input(words(Some("<rex>"), "dog"), learn, rank);
        input.recipe.initializer_candidates = vec!["red</w>".into(), "green</w>".into()];
        let whole = train(&base, &input, &mut |_| Flow::Continue).unwrap();
        let mut first = FineTuning::new(&base, &input).unwrap();
        let stopped = first.run(&mut |step| match step.phase {
            TrainingPhase::Optimizing if step.step == 2 => Flow::Stop,
            TrainingPhase::Optimizing | TrainingPhase::Encoding => Flow::Continue,
        });
        assert!(matches!(stopped, Err(EngineError::Stopped)));

        let mut second = FineTuning::new(&base, &input).unwrap();
        second.restore(first.state()).unwrap();
        second.run(&mut |_| Flow::Continue).unwrap();

        let bytes = |delta: &Delta| delta.to_safetensors().unwrap();
        assert!(bytes(&second.delta().unwrap()) == bytes(&whole), "{learn:?} at rank {rank:?}");
    }
}
