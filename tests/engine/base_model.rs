//! What a model folder that does not fit says about itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use vstar::engine::ops::{InstructionSet, Precision};
use vstar::engine::weights::WeightFiles;
use vstar::engine::{BaseModel, EngineError, clip::ClipTokenizer};

pub(crate) fn golden(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(model).join("model")
}

/// A copy of a golden model's folder, to be damaged.
pub(crate) fn copy(model: &str) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    for part in ["text_encoder", "tokenizer", "unet", "vae", "scheduler"] {
        fs::create_dir(target.path().join(part)).unwrap();
        for file in fs::read_dir(golden(model).join(part)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), target.path().join(part).join(file.file_name())).unwrap();
        }
    }
    target
}

pub(crate) fn edit(path: &Path, field: &str, value: Value) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    json[field] = value;
    fs::write(path, json.to_string()).unwrap();
}

pub(crate) fn load_error(dir: &Path) -> EngineError {
    match BaseModel::load(dir, &Device::Cpu) {
        Ok(_) => panic!("the damaged folder loads"),
        Err(error) => error,
    }
}

#[test]
fn a_published_folder_loads_and_keeps_its_digest() {
    let first = BaseModel::load(&golden("sd1"), &Device::Cpu).unwrap();
    let copied = copy("sd1");
    let again = BaseModel::load(copied.path(), &Device::Cpu).unwrap();
    let other = BaseModel::load(&golden("sd2"), &Device::Cpu).unwrap();

    assert_eq!(first.digest, again.digest);
    assert_ne!(first.digest, other.digest);
    assert_eq!(first.digest.len(), 64);
    let layers = first.unet.cross_attention();
    assert_eq!(layers.len(), 16);
    assert_eq!(layers[0].name, "down_blocks.0.attentions.0.transformer_blocks.0.attn2");
    assert_eq!(layers[15].name, "mid_block.attentions.0.transformer_blocks.0.attn2");
}

#[test]
fn products_of_bf16_numbers_predict_nearly_the_same_noise() {
    if !InstructionSet::used().multiplies_bf16() {
        println!("skipped: this CPU does not multiply bf16 numbers");
        return;
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    let predict = |precision: Precision| -> Vec<f32> {
        let base = BaseModel::load_as(&dir, &Device::Cpu, DType::F32, precision).unwrap();
        let ids = ["a dog on the beach", "two red cats"]
            .map(|prompt| base.prompt_encoder.tokenize(prompt, &[]).unwrap().ids);
        let features = base.prompt_encoder.encode(&ids, None).unwrap();
        let key_values = base.unet.project(&features).unwrap();
        let values = (0..2 * 4 * 16 * 16).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0);
        let latents =
            Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((2, 4, 16, 16)).unwrap();
        let predicted = base.unet.forward(&latents, &[700.0, 200.0], &key_values).unwrap();
        predicted.flatten_all().unwrap().to_vec1().unwrap()
    };

    let (exact, rounded) = (predict(Precision::Exact), predict(Precision::Bf16));

    let largest = exact.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let difference = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{difference} of {largest}");
    assert!(difference > 0.0 && difference < 0.02 * largest, "{difference} of {largest}");
}

#[test]
fn a_weight_that_is_missing_is_named_with_its_folder() {
    let dir = copy("sd1");
    edit(&dir.path().join("vae/config.json"), "layers_per_block", json!(3));

    let error = load_error(dir.path());

    let EngineError::WeightMissing { name, file } = error else { panic!("{error}") };
    assert_eq!(name, "encoder.down_blocks.0.resnets.2.norm1.weight");
    assert!(file.ends_with("vae"), "{file}");
}

#[test]
fn a_weight_of_another_shape_is_named_with_both_shapes() {
    let dir = copy("sd1");
    edit(&dir.path().join("text_encoder/config.json"), "intermediate_size", json!(161));

    let error = load_error(dir.path());

    let EngineError::WeightShape { name, expected, actual } = error else { panic!("{error}") };
    assert_eq!(name, "encoder.layers.0.mlp.fc1.bias");
    assert_eq!((expected, actual), (vec![161], vec![160]));
}

#[test]
fn an_architecture_that_is_not_built_here_is_refused_by_file_and_field() {
    for (file, field, value) in [
        ("unet/config.json", "class_embed_type", json!("timestep")),
        ("unet/config.json", "addition_embed_type", json!("text_time")),
        (
            "unet/config.json",
            "down_block_types",
            json!(["AttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]),
        ),
        ("unet/config.json", "block_out_channels", json!([16, 24])),
        ("unet/config.json", "attention_head_dim", json!(0)),
        ("vae/config.json", "latents_mean", json!([0.0, 0.0, 0.0, 0.0])),
        ("text_encoder/config.json", "hidden_act", json!("relu")),
        ("text_encoder/config.json", "num_attention_heads", json!(3)),
    ] {
        let dir = copy("sd1");
        edit(&dir.path().join(file), field, value.clone());

        let error = load_error(dir.path());

        let EngineError::ModelFile { path, reason } = error else { panic!("{field}: {error}") };
        assert!(path.ends_with(file), "{field}: {path}");
        let culprit = value.as_array().map_or(value.to_string(), |list| list[0].to_string());
        assert!(
            reason.contains(field) || reason.contains(culprit.trim_matches('"')),
            "{field}: {reason}"
        );
    }
}

#[test]
fn weights_that_no_layer_asks_for_are_listed() {
    let dir = copy("sd1");
    let path = dir.path().join("text_encoder/model.safetensors");
    let mut weights = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let extra = weights["final_layer_norm.weight"].clone();
    weights.insert("text_projection.weight".into(), extra);
    candle_core::safetensors::save(&weights, &path).unwrap();

    let plain = BaseModel::load(&golden("sd1"), &Device::Cpu).unwrap();
    let with_extra = BaseModel::load(dir.path(), &Device::Cpu).unwrap();

    assert!(plain.unexpected_weights.is_empty(), "{:?}", plain.unexpected_weights);
    assert_eq!(with_extra.unexpected_weights, ["text_encoder/text_projection.weight"]);
}

#[test]
fn a_file_that_was_cut_off_is_refused() {
    let dir = copy("sd1");
    let path = dir.path().join("unet/diffusion_pytorch_model.safetensors");
    let length = fs::metadata(&path).unwrap().len();
    for (length, expected) in [
        (length - 100, "the file ends within weight"),
        (1000, "the header is longer than the file"),
        (0, "0 bytes are no safetensors file"),
    ] {
        fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();

        let error = load_error(dir.path());

        let EngineError::ModelFile { path: named, reason } = error else { panic!("{error}") };
        assert!(named.contains("unet") && reason.contains(expected), "{named}: {reason}");
    }
}

/// Weights are used from the mapped file where their numbers lie as the CPU reads them; the header decides where that is.
#[test]
fn weights_that_lie_at_odd_bytes_give_the_same_prediction() {
    let dir = copy("sd1");
    let path = dir.path().join("unet/diffusion_pytorch_model.safetensors");
    let file = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(file[..8].try_into().unwrap());
    let (header, data) = file[8..].split_at(header as usize);
    let mut padded = header.to_vec();
    padded.resize(header.len().next_multiple_of(4) + 3, b' ');
    let length = (padded.len() as u64).to_le_bytes();
    fs::write(&path, [&length, &*padded, data].concat()).unwrap();

    let predict = |dir: &Path| {
        let base = BaseModel::load(dir, &Device::Cpu).unwrap();
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let key_values =
            base.unet.project(&ones(&[1, 7, base.prompt_encoder.hidden_size()])).unwrap();
        let predicted = base.unet.forward(&ones(&[1, 4, 8, 8]), &[3.0], &key_values).unwrap();
        predicted.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(predict(dir.path()), predict(&golden("sd1")));
}

#[test]
fn parts_of_different_models_are_refused_together() {
    let dir = copy("sd1");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(
            golden("sd2").join("text_encoder").join(file),
            dir.path().join("text_encoder").join(file),
        )
        .unwrap();
    }

    let error = load_error(dir.path());

    assert!(
        matches!(&error, EngineError::ModelFile { reason, .. } if reason.contains("width 48")),
        "{error}"
    );
}

#[test]
fn the_length_of_a_prompt_is_reported_before_it_is_cut() {
    let tokenizer = ClipTokenizer::load(&golden("sd1").join("tokenizer")).unwrap();

    let short = tokenizer.encode("a photo", &[]).unwrap();
    let long = tokenizer.encode(&"a ".repeat(100), &[]).unwrap();

    assert_eq!((short.length, short.ids.len()), (4, 77));
    assert_eq!((long.length, long.ids.len()), (102, 77));
}

#[test]
fn added_tokens_follow_the_vocabulary_in_their_order() {
    let tokenizer = ClipTokenizer::load(&golden("sd1").join("tokenizer")).unwrap();
    let first = tokenizer.vocab_size() as u32;

    let ids = tokenizer.encode("<REX> beside <gate>", &["<gate>", "<rex>"]).unwrap().ids;

    assert_eq!(ids[1], first + 1);
    assert!(ids.contains(&first));
    assert_eq!(tokenizer.token_id("a</w>"), Some(320));
    assert_eq!(tokenizer.token_id("<rex>"), None);
}

/// A model that is installed over one that is open: weights and digest stay those of one file.
#[test]
fn the_digest_is_that_of_the_file_that_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/vae");
    let name = "diffusion_pytorch_model.safetensors";
    std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    let files =
        WeightFiles::open(folder.path(), "diffusion_pytorch_model", &Device::Cpu, DType::F32)
            .unwrap();
    let digest = || {
        let mut digest = Sha256::new();
        files.update_digest(&mut digest).unwrap();
        digest.finalize()
    };
    let before = digest();

    let other = folder.path().join("other");
    std::fs::write(&other, b"another file").unwrap();
    std::fs::rename(&other, folder.path().join(name)).unwrap();

    assert_eq!(digest(), before);
}
