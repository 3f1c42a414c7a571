//! Merges over the tiny base model, with small synthetic deltas.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use vstar::class_images::ClassImageSet;
use vstar::domain::concept::{ClassNoun, ConceptWords, ModifierToken};
use vstar::domain::merge::{Constraint, MergeRecipe, MergeReport, Protected};
use vstar::engine::random::{Purpose, Random};
use vstar::engine::{
    BaseModel, ConceptSet, ConceptUse, Delta, DeltaConcept, DeltaWeights, KeyValues, Merge,
    MergePack, PackUse, RegularizationStatistics, StatisticsBase, condition_prompt,
    encode_captions, kv_weights,
};

use crate::devices::test_devices;

fn tiny() -> BaseModel {
    tiny_on(&Device::Cpu)
}

fn tiny_on(device: &Device) -> BaseModel {
    BaseModel::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny"), device).unwrap()
}

fn captions() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/class_images.zip");
    ClassImageSet::open(&file).unwrap().captions()
}

/// A delta that changes every matrix by a little noise, and teaches these concepts: modifier token and class noun.
fn delta(base: &BaseModel, taught: &[(Option<&str>, &str)], seed: u64) -> Delta {
    let mut matrices = BTreeMap::new();
    for (index, (name, weight)) in kv_weights(base.unet.cross_attention()).into_iter().enumerate() {
        let mut noise = vec![0.0; weight.elem_count()];
        Random::new(seed, Purpose::Noise, index as u64, 0).normals(&mut noise);
        let noise = Tensor::from_vec(noise, weight.shape(), &Device::Cpu).unwrap();
        let weight = weight.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        let changed = (weight + (noise * 0.02).unwrap()).unwrap();
        matrices.insert(name, changed);
    }
    let concept = |(index, (token, noun)): (usize, &(Option<&str>, &str))| {
        let embedding_row = token.map(|_| {
            let mut row = vec![0.0; base.prompt_encoder.hidden_size()];
            Random::new(seed, Purpose::Noise, 99, index as u64).normals(&mut row);
            row.iter_mut().for_each(|value| *value *= 0.3);
            row
        });
        let words = ConceptWords {
            modifier_token: token.map(|token| ModifierToken::try_from(token.to_owned()).unwrap()),
            class_noun: ClassNoun::try_from((*noun).to_owned()).unwrap(),
        };
        DeltaConcept { words, embedding_row, initializer_token: None }
    };
    Delta {
        base_digest: base.digest.clone(),
        concepts: taught.iter().enumerate().map(concept).collect(),
        weights: DeltaWeights::Dense(matrices),
        metadata: BTreeMap::new(),
    }
}

fn packed(base: &BaseModel, delta: &Delta) -> PackUse {
    PackUse { pack: Arc::new(MergePack::build(base, delta, 1.0).unwrap()), strength: 1.0 }
}

fn soft(constraint_weight: f64) -> MergeRecipe {
    MergeRecipe { constraint: Constraint::Soft { constraint_weight }, ..MergeRecipe::default() }
}

fn report(
    statistics: &RegularizationStatistics,
    packs: &[PackUse],
    recipe: &MergeRecipe,
) -> MergeReport {
    Merge::new(statistics, packs, recipe).unwrap().report(statistics, recipe).unwrap()
}

/// All keys and values at some tokens, flat.
fn numbers(key_values: &KeyValues, tokens: std::ops::Range<usize>) -> Vec<f32> {
    let layers = key_values.layers.iter().flat_map(|kv| [&kv.key, &kv.value]);
    let chosen = layers.map(|tensor| tensor.narrow(1, tokens.start, tokens.len()).unwrap());
    chosen.flat_map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

/// `‖a − b‖ / ‖c − b‖`.
fn distance(a: &[f32], b: &[f32], c: &[f32]) -> f64 {
    let norm = |x: &[f32]| -> f64 {
        x.iter().zip(b).map(|(x, b)| f64::from(x - b).powi(2)).sum::<f64>().sqrt()
    };
    norm(a) / norm(c)
}

#[test]
fn a_merge_keeps_its_concepts_and_leaves_ordinary_prompts_alone() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
        let deltas =
            [delta(&base, &[(Some("<rex>"), "dog")], 1), delta(&base, &[(None, "gate")], 2)];
        let packs = deltas.each_ref().map(|delta| packed(&base, delta));

        let report = report(&statistics, &packs, &soft(1e5));

        assert!(report.constraint_error < 0.2, "{report:?}");
        assert!(report.drift < 0.3, "{report:?}");
        assert_eq!((report.deltas.len(), report.pairs.len()), (2, 1));
        assert!(report.deltas.iter().all(|error| *error < 0.2), "{report:?}");
    }
}

#[test]
fn a_weaker_constraint_drifts_less() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
        let deltas = [
            delta(&base, &[(Some("<rex>"), "dog")], 1),
            delta(&base, &[(Some("<tom>"), "cat")], 2),
        ];
        let packs = deltas.each_ref().map(|delta| packed(&base, delta));
        let at = |weight| report(&statistics, &packs, &soft(weight));

        let (weak, strong) = (at(10.0), at(1e5));

        assert!(weak.drift < strong.drift, "{weak:?} {strong:?}");
        assert!(weak.constraint_error > strong.constraint_error, "{weak:?} {strong:?}");
    }
}

#[test]
fn a_prompt_gets_the_same_from_packs_as_from_the_merged_weights() {
    let base = tiny();
    let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
    let deltas = [delta(&base, &[(Some("<rex>"), "dog")], 1), delta(&base, &[(None, "gate")], 2)];
    let mut packs = deltas.each_ref().map(|delta| packed(&base, delta));
    packs[0].strength = 0.7;
    let prompt = "a <rex> dog in front of a gate";

    let merge = Arc::new(Merge::new(&statistics, &packs, &MergeRecipe::default()).unwrap());
    let direct = ConceptSet::merged(&base, merge.clone()).unwrap();
    let direct = direct.condition(&base, prompt).unwrap();
    let merged = Arc::new(merge.to_delta(&base, &MergeRecipe::default()).unwrap());
    let by_delta =
        condition_prompt(&base, prompt, &[ConceptUse { delta: merged, strength: 1.0 }]).unwrap();

    let tokens = 0..base.prompt_encoder.max_length();
    let (direct, by_delta) = (numbers(&direct, tokens.clone()), numbers(&by_delta, tokens));
    let largest = direct.iter().map(|value| value.abs()).fold(0.0, f32::max);
    for (a, b) in direct.iter().zip(&by_delta) {
        assert!((a - b).abs() < 1e-4 * largest, "{a} {b}");
    }
}

/// How far a concept's name is from its own keys and values in `photo of a <name>`, where 1 is as without the merge.
fn missed(base: &BaseModel, set: &ConceptSet, own: &Delta, name: &str) -> f64 {
    missed_at(base, set, own, name, 1.0)
}

/// The same for the keys and values that the concept has alone at a strength.
fn missed_at(base: &BaseModel, set: &ConceptSet, own: &Delta, name: &str, strength: f64) -> f64 {
    let prompt = format!("photo of a {name}");
    let start = base.prompt_encoder.tokenize("photo of a", &[]).unwrap().length - 1;
    let end = set.tokenize(base, &prompt).unwrap().length - 1;
    let concept = |strength| ConceptUse { delta: Arc::new(own.clone()), strength };
    let of = |key_values: &KeyValues| numbers(key_values, start..end);
    let own_kv = of(&condition_prompt(base, &prompt, &[concept(strength)]).unwrap());
    let plain = of(&condition_prompt(base, &prompt, &[concept(0.0)]).unwrap());
    let merged = of(&set.condition(base, &prompt).unwrap());
    distance(&merged, &own_kv, &plain)
}

#[test]
fn hard_constraints_give_each_concept_its_own_keys_and_values() {
    let base = tiny();
    let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
    let deltas = [delta(&base, &[(Some("<rex>"), "dog")], 1), delta(&base, &[(None, "gate")], 2)];
    let packs = deltas.each_ref().map(|delta| packed(&base, delta));
    let hard = MergeRecipe { constraint: Constraint::Hard, ..MergeRecipe::default() };

    let merge = Merge::new(&statistics, &packs, &hard).unwrap();
    let set = ConceptSet::merged(&base, Arc::new(merge)).unwrap();

    for (own, name) in [(&deltas[0], "<rex> dog"), (&deltas[1], "gate")] {
        let missed = missed(&base, &set, own, name);
        assert!(missed < 0.02, "{name}: {missed}");
    }
}

/// The rows of a merge's system that have changes.
fn constraints(merge: &Merge, base: &BaseModel) -> usize {
    match merge.weights(base.unet.cross_attention()).unwrap() {
        DeltaWeights::LowRank { p, .. } => p.dim(0).unwrap(),
        DeltaWeights::Dense(_) | DeltaWeights::Factorized(_) => panic!("a merge shares P"),
    }
}

#[test]
fn a_hard_merge_has_the_constraints_of_the_paper_and_is_well_conditioned() {
    let base = tiny();
    let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
    let deltas = [delta(&base, &[(Some("<rex>"), "dog")], 1), delta(&base, &[(None, "gate")], 2)];
    let packs = deltas.each_ref().map(|delta| packed(&base, delta));
    let hard =
        MergeRecipe { constraint: Constraint::Hard, protect: Vec::new(), ..MergeRecipe::default() };

    let merge = Merge::new(&statistics, &packs, &hard).unwrap();
    let report = merge.report(&statistics, &hard).unwrap();
    let of_soft = constraints(&Merge::new(&statistics, &packs, &soft(1e3)).unwrap(), &base);

    // Modifier token, class noun and end token in two templates; the same without a modifier token.
    assert_eq!(constraints(&merge, &base), 6 + 4);
    assert!(of_soft > 30, "{of_soft}");
    assert!(report.condition < 1e4, "{report:?}");
    assert!(report.constraint_error < 1e-4, "{report:?}");
}

#[test]
fn a_pack_read_from_its_file_knows_where_its_rows_stand() {
    let base = tiny();
    let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
    let deltas = [delta(&base, &[(Some("<rex>"), "dog")], 1), delta(&base, &[(None, "gate")], 2)];
    let packs = deltas.each_ref().map(|delta| packed(&base, delta));
    let read = packs.each_ref().map(|used| {
        let file = used.pack.to_safetensors().unwrap();
        let pack = MergePack::from_safetensors(&file).unwrap();
        PackUse { pack: Arc::new(pack), strength: 1.0 }
    });
    let hard =
        MergeRecipe { constraint: Constraint::Hard, protect: Vec::new(), ..MergeRecipe::default() };

    let (made, stored) = (report(&statistics, &packs, &hard), report(&statistics, &read, &hard));

    assert_eq!(made, stored);
    for kept in stored.kept_after_other {
        // The same noise changes all rows, so that they change about as much.
        assert!(kept.is_some_and(|kept| (0.5..1.5).contains(&kept)), "{kept:?}");
    }
    assert!(stored.pairs[0].kept_after_other.is_some());
}

#[test]
fn a_pack_file_from_before_rows_had_places_is_merged_with_all_of_its_rows() {
    let base = tiny();
    let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
    let prompts = ["<rex> dog", "a gate"].map(|prompt| prompt.replace("<rex>", "red"));
    let layers = kv_weights(base.unet.cross_attention());
    let width = layers.values().map(|weight| weight.dim(0).unwrap()).sum::<usize>();
    let packs = prompts.each_ref().map(|prompt| {
        let ids = base.prompt_encoder.tokenize(prompt, &[]).unwrap().ids;
        let features = base.prompt_encoder.encode(&[ids], None).unwrap().squeeze(0).unwrap();
        let features = features.narrow(0, 1, 3).unwrap().contiguous().unwrap();
        let changes = Tensor::ones((3, width), DType::F32, &Device::Cpu).unwrap();
        let pack =
            MergePack::of_features(features.clone(), changes, features.narrow(0, 0, 0).unwrap());
        let file = pack.to_safetensors().unwrap();
        PackUse { pack: Arc::new(MergePack::from_safetensors(&file).unwrap()), strength: 1.0 }
    });
    let hard =
        MergeRecipe { constraint: Constraint::Hard, protect: Vec::new(), ..MergeRecipe::default() };

    let merge = Merge::solve(&statistics, &packs, &hard).unwrap();
    let report = merge.report(&statistics, &hard).unwrap();

    assert_eq!(constraints(&merge, &base), 3 + 3);
    assert_eq!(report.kept_after_other, [None, None]);
}

#[test]
fn a_concept_at_part_of_its_strength_gets_what_it_has_alone_at_that_strength() {
    let base = tiny();
    let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
    let mut rex = delta(&base, &[(Some("<rex>"), "dog")], 1);
    rex.concepts[0].initializer_token = Some("cat".to_owned());
    let gate = delta(&base, &[(None, "gate")], 2);
    let hard = MergeRecipe { constraint: Constraint::Hard, ..MergeRecipe::default() };
    // - `row`: at which the constraints have the modifier token's row
    let missed = |row: f64| {
        let pack = Arc::new(MergePack::build(&base, &rex, row).unwrap());
        let packs = [PackUse { pack, strength: 0.5 }, packed(&base, &gate)];
        let merge = Merge::new(&statistics, &packs, &hard).unwrap();
        let set = ConceptSet::merged(&base, Arc::new(merge)).unwrap();
        missed_at(&base, &set, &rex, "<rex> dog", 0.5)
    };

    let (at_its_strength, as_learned) = (missed(0.5), missed(1.0));

    assert!(at_its_strength < 0.02, "{at_its_strength}");
    assert!(as_learned > 10.0 * at_its_strength, "{as_learned}");
}

#[test]
fn joint_deltas_bare_nouns_and_nouns_of_two_words_merge() {
    let base = tiny();
    let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
    let deltas = [
        delta(&base, &[(Some("<rex>"), "dog"), (Some("<tom>"), "cat")], 1),
        delta(&base, &[(None, "teddy bear")], 2),
        delta(&base, &[(Some("<pot>"), "wooden pot")], 3),
    ];
    let packs = deltas.each_ref().map(|delta| packed(&base, delta));

    let merge = Merge::new(&statistics, &packs, &soft(1e4)).unwrap();
    let set = ConceptSet::merged(&base, Arc::new(merge)).unwrap();

    let cases = [(0, "<rex> dog"), (0, "<tom> cat"), (1, "teddy bear"), (2, "<pot> wooden pot")];
    for (owner, name) in cases {
        let missed = missed(&base, &set, &deltas[owner], name);
        assert!(missed < 0.6, "{name}: {missed}");
    }
}

/// The same delta without strength: its embedding rows, the base model's weights.
fn without(used: PackUse) -> PackUse {
    PackUse { strength: 0.0, ..used }
}

#[test]
fn what_is_protected_stays_as_the_base_model_has_it() {
    let base = tiny();
    let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
    let deltas = [delta(&base, &[(Some("<rex>"), "dog")], 1), delta(&base, &[(None, "gate")], 2)];
    let packs = deltas.each_ref().map(|delta| packed(&base, delta));
    let change = |protect: Vec<Protected>, prompt: &str, start: usize| {
        let recipe = MergeRecipe { protect, ..soft(1e7) };
        let merge = Merge::new(&statistics, &packs, &recipe).unwrap();
        let ids = base.prompt_encoder.tokenize(prompt, &[]).unwrap();
        let text = base.prompt_encoder.encode(&[ids.ids], None).unwrap().squeeze(0).unwrap();
        let text = text.narrow(0, start, ids.length - start).unwrap(); // to the end token
        let change = merge.change(&text, base.unet.cross_attention()).unwrap();
        let squares = change
            .iter()
            .flat_map(|kv| [&kv.key, &kv.value])
            .map(|tensor| tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
        squares.sum::<f32>().sqrt()
    };

    // Of the class noun's prompt, the noun and the end token.
    for (what, prompt, start) in
        [(Protected::EmptyPrompt, "", 0), (Protected::ClassNouns, "photo of a dog", 4)]
    {
        let free = change(vec![], prompt, start);
        let kept = change(vec![what], prompt, start);
        assert!(kept < 0.1 * free, "{what:?}: {kept} of {free}");
    }
}

#[test]
fn a_strength_of_zero_takes_a_concept_out_of_a_merge() {
    let base = tiny();
    let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
    let deltas = [delta(&base, &[(Some("<rex>"), "dog")], 1), delta(&base, &[(None, "gate")], 2)];
    let packs = deltas.each_ref().map(|delta| packed(&base, delta)).map(without);

    let merge = Merge::new(&statistics, &packs, &MergeRecipe::default()).unwrap();
    let set = ConceptSet::merged(&base, Arc::new(merge)).unwrap();

    let tokens = 0..base.prompt_encoder.max_length();
    let merged = set.condition(&base, "a gate at night").unwrap();
    let plain = condition_prompt(&base, "a gate at night", &[]).unwrap();
    assert_eq!(numbers(&merged, tokens.clone()), numbers(&plain, tokens));
}

#[test]
fn a_merged_delta_survives_its_file() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
        let deltas = [
            delta(&base, &[(Some("<rex>"), "dog")], 1),
            delta(&base, &[(Some("<bear>"), "teddy bear")], 2),
        ];
        let packs = deltas.each_ref().map(|delta| packed(&base, delta));
        let recipe = MergeRecipe::default();
        let merge = Merge::new(&statistics, &packs, &recipe).unwrap();
        let merged = merge.to_delta(&base, &recipe).unwrap();

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
fn packs_and_regularization_statistics_survive_their_files() {
    let base = tiny();
    let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
    let deltas = [
        delta(&base, &[(Some("<rex>"), "dog"), (Some("<tom>"), "cat")], 1),
        delta(&base, &[(None, "gate")], 2),
    ];
    let packs = deltas.each_ref().map(|delta| packed(&base, delta));
    let before = report(&statistics, &packs, &MergeRecipe::default());

    let file = statistics.to_safetensors().unwrap();
    let statistics = RegularizationStatistics::from_safetensors(&file).unwrap();
    let read = packs.map(|used| {
        let file = used.pack.to_safetensors().unwrap();
        PackUse { pack: Arc::new(MergePack::from_safetensors(&file).unwrap()), ..used }
    });

    assert_eq!(report(&statistics, &read, &MergeRecipe::default()), before);
    assert_eq!(statistics.to_safetensors().unwrap(), file);
    let refusal = |bytes: &[u8]| MergePack::from_safetensors(bytes).err().unwrap().to_string();
    assert!(refusal(&file).contains("this is not a merge pack file"), "{}", refusal(&file));
    assert!(RegularizationStatistics::from_safetensors(&file[..file.len() - 8]).is_err());
}

#[test]
fn deltas_that_teach_the_same_word_are_refused() {
    for device in test_devices() {
        let base = tiny_on(&device);
        let statistics = RegularizationStatistics::new(&base, &captions()).unwrap();
        let deltas = [
            delta(&base, &[(Some("<rex>"), "dog")], 1),
            delta(&base, &[(Some("<rex>"), "cat")], 2),
        ];
        let packs = deltas.each_ref().map(|delta| packed(&base, delta));
        let refusal = |packs: &[PackUse]| {
            Merge::new(&statistics, packs, &MergeRecipe::default()).err().unwrap().to_string()
        };

        assert!(refusal(&packs).contains("`<rex>`"), "{}", refusal(&packs));
        assert!(refusal(&packs[..1]).contains("at least 2 deltas"), "{}", refusal(&packs[..1]));
    }
}

#[test]
fn a_name_that_no_prompt_has_room_for_is_refused() {
    let base = tiny();
    let long = "q-x-z-j-".repeat(8); // a token for each sign

    let error = MergePack::build(&base, &delta(&base, &[(Some("<rex>"), &long)], 1), 1.0);

    let error = error.err().unwrap().to_string();
    assert!(error.contains("longer than the model's prompts"), "{error}");
}

#[test]
fn captions_that_do_not_span_the_text_space_are_refused() {
    let base = tiny();
    let alike = vec!["a dog".to_owned(); 100];
    let few = captions()[..9].to_vec();

    let error = |captions: &[String]| {
        RegularizationStatistics::new(&base, captions).err().unwrap().to_string()
    };

    assert!(error(&alike).contains("do not span"), "{}", error(&alike));
    assert!(error(&few).contains("at least 10"), "{}", error(&few));
}

#[test]
fn statistics_are_the_same_however_many_captions_are_encoded_at_a_time() {
    let base = tiny();
    let captions = captions();

    let at_once = RegularizationStatistics::new(&base, &captions).unwrap();
    let mut features = Vec::new();
    for some in captions.chunks(7) {
        features.extend(encode_captions(&base, some).unwrap());
    }
    let of_base = StatisticsBase::of(&base).unwrap();
    let in_parts = RegularizationStatistics::of_captions(&of_base, &captions, &features).unwrap();

    assert!(at_once.to_safetensors().unwrap() == in_parts.to_safetensors().unwrap());
}
