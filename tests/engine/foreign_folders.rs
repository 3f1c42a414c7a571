//! Model folders as other programs write them.

use std::fs;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use vstar::engine::BaseModel;
use vstar::engine::clip::{ClipTokenizer, TokenIds};

use crate::base_model::{copy, edit, golden, load_error};

#[test]
fn a_vocabulary_may_have_added_tokens_and_a_padded_table() {
    for (added, spare) in [(0, 3), (1, 0), (2, 5)] {
        let dir = copy("sd1");
        let path = dir.path().join("text_encoder/model.safetensors");
        let mut weights = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let table = weights
            .iter_mut()
            .find_map(|(name, weight)| name.ends_with("token_embedding.weight").then_some(weight))
            .unwrap();
        let rows = table.dim(0).unwrap();
        let more = table.narrow(0, 100, added + spare).unwrap();
        *table = Tensor::cat(&[&*table, &more], 0).unwrap();
        candle_core::safetensors::save(&weights, &path).unwrap();
        let all = rows + added + spare;
        edit(&dir.path().join("text_encoder/config.json"), "vocab_size", json!(all));
        let names: Vec<String> = (0..added).map(|index| format!("<old{index}>")).collect();
        let ids: serde_json::Map<String, Value> =
            names.iter().enumerate().map(|(at, name)| (name.clone(), json!(rows + at))).collect();
        fs::write(dir.path().join("tokenizer/added_tokens.json"), json!(ids).to_string()).unwrap();

        let base = BaseModel::load(dir.path(), &Device::Cpu).unwrap();
        let encoder = &base.prompt_encoder;
        for (index, name) in names.iter().enumerate() {
            let prompt = format!("a {} dog, <rex>", name.to_uppercase());
            let ids = encoder.tokenize_whole(&prompt, &["<rex>"]).unwrap().ids;

            assert_eq!(ids[2], (rows + index) as u32, "{ids:?}");
            assert!(
                ids.contains(&(all as u32)),
                "the modifier token lies behind the table: {ids:?}"
            );
            let error = encoder.tokenize("a dog", &[name.as_str()]).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(encoder.tokenize_whole("a <new> dog", &["<rex>"]).is_err());
    }
}

#[test]
fn a_vocabulary_beyond_the_embedding_table_is_refused() {
    let dir = copy("sd1");
    fs::write(dir.path().join("tokenizer/added_tokens.json"), r#"{"<old>": 5000}"#).unwrap();

    assert!(load_error(dir.path()).to_string().contains("5001 entries"));
}

/// A padding token that is an ordinary entry as well is padding wherever it stands, as in diffusers.
#[test]
fn the_padding_token_of_stable_diffusion_2_is_one_id_wherever_it_stands() {
    let tokenizer = ClipTokenizer::load(&golden("sd2").join("tokenizer")).unwrap();
    let ids = |prompt: &str| tokenizer.encode(prompt, &[]).unwrap();
    let eos = *ids("").ids.iter().max().unwrap();

    assert_eq!(ids("! !! !!!").ids[1..8], [0, 0, 0, 0, 0, 0, eos]);
    for prompt in ["a dog", "a dog!", "! !! !!!"] {
        let TokenIds { ids, length } = ids(prompt);
        assert_eq!(ids.iter().filter(|id| **id == eos).count(), 1, "{prompt}: {ids:?}");
        assert_eq!(ids[length - 1], eos, "{prompt}: {ids:?}");
        assert!(ids[length..].iter().all(|id| *id == 0), "{prompt}: {ids:?}");
    }
}

#[test]
fn sizes_may_be_lists_and_flags_one_for_each_level() {
    let dir = copy("sd1");
    let unet = dir.path().join("unet/config.json");
    let plain = BaseModel::load(dir.path(), &Device::Cpu).unwrap();
    let side = plain.unet.config().sample_size;
    edit(&unet, "sample_size", json!([side, side]));
    edit(&unet, "only_cross_attention", json!([false, false, false, false]));
    edit(&dir.path().join("vae/config.json"), "sample_size", json!([512, 512]));

    assert_eq!(BaseModel::load(dir.path(), &Device::Cpu).unwrap().unet.config().sample_size, side);
    edit(&unet, "sample_size", json!([16, 24]));
    let error = load_error(dir.path()).to_string();
    assert!(error.contains("sample_size") && error.contains("16 x 24"), "{error}");
}

#[test]
fn a_pipeline_of_another_kind_is_refused_by_the_part_that_differs() {
    for (part, class) in [
        ("text_encoder_2", json!(["transformers", "CLIPTextModelWithProjection"])),
        ("transformer", json!(["diffusers", "FluxTransformer2DModel"])),
        ("vae", json!(["diffusers", "AutoencoderTiny"])),
        ("scheduler", json!(["diffusers", "FlowMatchEulerDiscreteScheduler"])),
        ("text_encoder", json!(["transformers", "T5EncoderModel"])),
    ] {
        let dir = copy("sd1");
        let mut index = json!({
            "_class_name": "OtherPipeline",
            "safety_checker": [null, null],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        });
        fs::write(dir.path().join("model_index.json"), index.to_string()).unwrap();
        assert!(BaseModel::load(dir.path(), &Device::Cpu).is_ok());
        index[part] = class;
        fs::write(dir.path().join("model_index.json"), index.to_string()).unwrap();

        let error = load_error(dir.path()).to_string();

        assert!(error.contains("OtherPipeline") && error.contains(part), "{error}");
    }
}

#[test]
fn weights_that_are_not_there_are_looked_for_in_other_forms() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n";
    for (content, name, expected) in [
        (Some(pointer), "diffusion_pytorch_model.safetensors", "git lfs pull"),
        (Some("PK\u{3}\u{4}data.pkl"), "diffusion_pytorch_model.safetensors", "PyTorch"),
        (Some(pointer), "config.json", "git lfs pull"),
        (None, "diffusion_pytorch_model.bin", "convert it to safetensors"),
        (None, "diffusion_pytorch_model-00001-of-00002.bin", "convert it to safetensors"),
        (None, "diffusion_pytorch_model.non_ema.safetensors", "non_ema"),
    ] {
        for part in ["unet", "vae"] {
            let dir = copy("sd1");
            let folder = dir.path().join(part);
            let weights = folder.join("diffusion_pytorch_model.safetensors");
            match content {
                Some(content) => fs::write(folder.join(name), content).unwrap(),
                None => fs::rename(weights, folder.join(name)).unwrap(),
            }

            let error = load_error(dir.path()).to_string();

            assert!(error.contains(expected) && error.contains(part), "{name}: {error}");
        }
    }
}

/// A copy of a model whose text encoder's header another program has written.
fn with_header(metadata: Option<&str>, padding: usize) -> tempfile::TempDir {
    let dir = copy("sd1");
    let path = dir.path().join("text_encoder/model.safetensors");
    let file = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let mut entries: Vec<String> = header
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, entry)| format!("{}: {entry}", json!(name)))
        .collect();
    entries.reverse();
    entries.extend(metadata.map(|metadata| format!("\"__metadata__\": {metadata}")));
    let header = format!("{{{}}}{}", entries.join(","), " ".repeat(padding));
    let mut written = (header.len() as u64).to_le_bytes().to_vec();
    written.extend(header.as_bytes());
    written.extend(&file[8 + length..]);
    fs::write(path, written).unwrap();
    dir
}

#[test]
fn headers_of_other_programs_are_read_whatever_their_metadata() {
    let large = json!({ "ss_tag_frequency": "x".repeat(2 << 20) }).to_string();
    for metadata in [
        None,
        Some("{}"),
        Some("null"),
        Some(r#"{"step": 7}"#),
        Some(r#"{"a": {"b": 1}}"#),
        Some(large.as_str()),
    ] {
        let dir = with_header(metadata, 13);

        assert!(BaseModel::load(dir.path(), &Device::Cpu).is_ok(), "{metadata:.40?}");
    }
}

#[test]
fn numbers_of_a_type_that_is_not_read_are_named_with_their_weight() {
    let dir = copy("sd1");
    let path = dir.path().join("text_encoder/model.safetensors");
    let mut weights = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let bias = weights["final_layer_norm.bias"].to_dtype(DType::U32).unwrap();
    weights.insert("final_layer_norm.bias".into(), bias);
    candle_core::safetensors::save(&weights, &path).unwrap();

    let error = load_error(dir.path()).to_string();

    assert!(error.contains("final_layer_norm.bias") && error.contains("U32"), "{error}");
}
