//! CLIP's vectors: whose they are, and what they depend on.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;
use vstar::engine::{Clip, EngineError};

use crate::devices::test_devices;

/// f16, quick_gelu, images of 32 pixels, end token 2 in the config, padding with the end token.
const OPENAI: &str = "clip_openai";
/// f32, gelu, images of 31 pixels, the tokenizer's end token, padding with `!`.
const OPENCLIP: &str = "clip_openclip";

/// A copy of a golden model's folder, to be changed.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn copy(model: &str) -> Self {
        let target = tempfile::tempdir().unwrap();
        for file in fs::read_dir(golden(model)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), target.path().join(file.file_name())).unwrap();
        }
        Self(target)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Changes a JSON file; one that does not exist is empty before.
    pub(crate) fn edit(self, file: &str, change: impl FnOnce(&mut Value)) -> Self {
        let path = self.path().join(file);
        let mut json =
            fs::read(&path).map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
        self
    }

    fn edit_weights(self, change: impl FnOnce(&mut HashMap<String, Tensor>)) -> Self {
        let path = self.path().join("model.safetensors");
        let mut weights = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        change(&mut weights);
        candle_core::safetensors::save(&weights, path).unwrap();
        self
    }

    pub(crate) fn load(&self) -> Clip {
        Clip::load(self.path(), &Device::Cpu).unwrap()
    }

    /// Why the folder does not load: the file's name and the reason.
    pub(crate) fn refusal(&self) -> (String, String) {
        match Clip::load(self.path(), &Device::Cpu) {
            Ok(_) => panic!("the folder loads"),
            Err(EngineError::ModelFile { path, reason }) => (path, reason),
            Err(error) => panic!("{error}"),
        }
    }
}

fn golden(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(model).join("model")
}

/// Any image of a size.
pub(crate) fn photo(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 7 + y) as u8, (x * y / 5) as u8, (y * 3).wrapping_sub(x) as u8])
    })
}

pub(crate) fn values(features: &Tensor) -> Vec<Vec<f32>> {
    features.to_vec2().unwrap()
}

fn text(clip: &Clip, text: &str) -> Vec<f32> {
    values(&clip.text_features(&[text]).unwrap()).remove(0)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn vectors_have_the_same_bytes_alone_and_among_others_at_any_number_of_threads() {
    let images: Vec<RgbImage> = (0..37).map(|i| photo(20 + i, 57 - i)).collect();
    let long = "a photo of the ".repeat(30);
    let texts: Vec<&str> = (0..40).map(|i| &long[..i * 11]).collect();
    for model in [OPENAI, OPENCLIP] {
        let clip = Clip::load(&golden(model), &Device::Cpu).unwrap();
        let alone: Vec<_> = images
            .iter()
            .flat_map(|image| values(&clip.image_features(std::slice::from_ref(image)).unwrap()))
            .collect();
        let texts_alone: Vec<_> = texts.iter().map(|one| text(&clip, one)).collect();

        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let among = pool.install(|| values(&clip.image_features(&images).unwrap()));
            let texts_among = pool.install(|| values(&clip.text_features(&texts).unwrap()));

            assert!(among == alone, "{model}: images on {threads} threads");
            assert!(texts_among == texts_alone, "{model}: texts on {threads} threads");
        }
    }
}

#[test]
fn every_device_gives_the_same_vectors_of_length_one() {
    let (images, texts) = ([photo(40, 50), photo(31, 31)], ["a dog", "a cat!"]);
    let here = Clip::load(&golden(OPENCLIP), &Device::Cpu).unwrap();
    for device in test_devices() {
        let clip = Clip::load(&golden(OPENCLIP), &device).unwrap();

        let of_images = clip.image_features(&images).unwrap();
        let of_texts = clip.text_features(&texts).unwrap();

        for (ours, cpu) in [
            (of_images, here.image_features(&images).unwrap()),
            (of_texts, here.text_features(&texts).unwrap()),
        ] {
            assert_eq!(ours.dims(), [2, clip.projection_dim()]);
            for (ours, cpu) in values(&ours).iter().zip(&values(&cpu)) {
                assert!((cosine(ours, ours) - 1.0).abs() < 1e-5);
                assert!((cosine(ours, cpu) - 1.0).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn nothing_gives_no_vectors() {
    let clip = Clip::load(&golden(OPENAI), &Device::Cpu).unwrap();

    assert_eq!(clip.image_features(&[]).unwrap().dims(), [0, 24]);
    assert_eq!(clip.text_features(&[]).unwrap().dims(), [0, 24]);
}

#[test]
fn the_config_s_end_token_is_2_or_the_tokenizer_s_or_absent() {
    let with = |id: Value| {
        Folder::copy(OPENCLIP).edit("config.json", |json| json["text_config"]["eos_token_id"] = id)
    };
    let own = Folder::copy(OPENCLIP).load();
    for id in [json!(2), json!(null), json!(638)] {
        let clip = with(id.clone()).load();
        for prompt in ["a photo of a dog", "a # b", ""] {
            assert_eq!(text(&clip, prompt), text(&own, prompt), "{id}: {prompt}");
        }
    }

    let (path, reason) = with(json!(5)).refusal();

    assert!(path.ends_with("config.json"), "{path}");
    assert!(reason.contains("is 5") && reason.contains("638"), "{reason}");
}

/// The new entry's id is above the end token's, and its row is that of `a`.
#[test]
fn an_entry_that_was_added_after_the_end_token_is_not_taken_for_it() {
    let with_entry = |eos: u32| {
        Folder::copy(OPENCLIP)
            .edit("config.json", |json| {
                json["text_config"]["eos_token_id"] = json!(eos);
                json["text_config"]["vocab_size"] = json!(640);
            })
            .edit("tokenizer_config.json", |json| {
                json["added_tokens_decoder"]["639"] = json!({"content": "zebra"});
            })
            .edit_weights(|weights| {
                let table =
                    weights.get_mut("text_model.embeddings.token_embedding.weight").unwrap();
                *table = Tensor::cat(&[&*table, &table.narrow(0, 320, 1).unwrap()], 0).unwrap();
            })
            .load()
    };

    let (clip, legacy) = (with_entry(638), with_entry(2));

    assert_eq!(clip.tokenize("zebra b").unwrap().ids[1], 639);
    assert_eq!(text(&clip, "zebra b"), text(&clip, "a b"));
    // By the older rule the highest id is the end, whatever it is.
    assert_eq!(text(&legacy, "zebra b"), text(&legacy, "zebra c"));
    assert_ne!(text(&legacy, "a b"), text(&legacy, "a c"));
}

#[test]
fn padding_does_not_matter_to_a_vector() {
    let with_padding = |token: &str| {
        Folder::copy(OPENAI)
            .edit("tokenizer_config.json", |json| json["pad_token"] = json!(token))
            .edit("special_tokens_map.json", |json| json["pad_token"] = json!(token))
            .load()
    };

    let (end, exclamation) = (with_padding("<|endoftext|>"), with_padding("!"));

    assert_ne!(end.tokenize("a dog").unwrap().ids, exclamation.tokenize("a dog").unwrap().ids);
    assert_eq!(text(&end, "a dog"), text(&exclamation, "a dog"));
}

#[test]
fn a_text_that_is_too_long_keeps_its_beginning_and_its_end_token() {
    let clip = Folder::copy(OPENCLIP).load();
    let words = |count: usize| "a ".repeat(count);

    assert_eq!(clip.tokenize(&words(75)).unwrap().length, clip.max_length());
    assert_eq!(clip.tokenize(&words(76)).unwrap().length, clip.max_length() + 1);
    for count in [76, 77, 300] {
        assert_eq!(text(&clip, &words(count)), text(&clip, &words(75)), "{count} words");
    }
    assert_ne!(text(&clip, &words(74)), text(&clip, &words(75)));
}

#[test]
fn fewer_positions_than_the_tokenizer_s_limit_are_the_limit() {
    let clip = Folder::copy(OPENCLIP)
        .edit("config.json", |json| json["text_config"]["max_position_embeddings"] = json!(16))
        .edit_weights(|weights| {
            let table = weights.get_mut("text_model.embeddings.position_embedding.weight").unwrap();
            *table = table.narrow(0, 0, 16).unwrap().contiguous().unwrap();
        })
        .load();

    assert_eq!((clip.max_length(), clip.tokenize("a").unwrap().ids.len()), (16, 16));
    assert_eq!(text(&clip, &"a ".repeat(15)), text(&clip, &"a ".repeat(14)));
}

#[test]
fn weights_of_every_float_type_are_read_and_the_rest_is_reported() {
    let converted = |dtype: DType| {
        Folder::copy(OPENAI).edit_weights(|weights| {
            weights.retain(|name, _| !name.ends_with("position_ids"));
            weights.values_mut().for_each(|weight| *weight = weight.to_dtype(dtype).unwrap());
        })
    };
    let own = Folder::copy(OPENAI).load();
    let [f32, bf16] = [DType::F32, DType::BF16].map(|dtype| converted(dtype).load());
    let odd = converted(DType::F32).edit_weights(|weights| {
        weights.insert(
            "text_model.extra.weight".into(),
            Tensor::ones(3, DType::F32, &Device::Cpu).unwrap(),
        );
    });

    assert_eq!(own.unexpected_weights, Vec::<String>::new(), "`position_ids` are no weights");
    assert_eq!(text(&own, "a dog"), text(&f32, "a dog"));
    assert!(cosine(&text(&own, "a dog"), &text(&bf16, "a dog")) > 0.999);
    assert_ne!(own.digest, f32.digest);
    assert_eq!(odd.load().unexpected_weights, ["text_model.extra.weight"]);
}
