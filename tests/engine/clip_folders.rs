//! Which CLIP folders load: spellings of the image settings, and the architectures that are published.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use image::{Rgb, RgbImage};
use serde_json::{Map, Value, json};
use vstar::engine::{
    Clip, EngineError,
    random::{Purpose, Random},
};

use crate::clip::{Folder, photo, values};

const SETTINGS: &str = "preprocessor_config.json";

/// A model for images of 32 pixels, with these image settings.
fn with_settings(settings: Value) -> Folder {
    Folder::copy("clip_openai").edit(SETTINGS, |json| *json = settings)
}

fn features(clip: &Clip, image: &RgbImage) -> Vec<f32> {
    values(&clip.image_features(std::slice::from_ref(image)).unwrap()).remove(0)
}

#[test]
fn one_size_has_many_spellings() {
    let photo = photo(256, 171);
    let of = |settings: Value| features(&with_settings(settings).load(), &photo);
    let without_file = Folder::copy("clip_openai");
    fs::remove_file(without_file.path().join(SETTINGS)).unwrap();

    let number =
        of(json!({"size": 32, "crop_size": 32, "feature_extractor_type": "CLIPFeatureExtractor"}));

    let edge = json!({"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}});
    assert_eq!(number, of(edge));
    assert_eq!(number, of(json!({})));
    let without_file = without_file.load();
    assert_eq!(number, features(&without_file, &photo));
    assert!(!without_file.has_image_settings);
    let squashed = of(json!({"size": {"height": 32, "width": 32}}));
    assert_ne!(number, squashed);
    assert_eq!(squashed, of(json!({"size": [32, 32], "do_center_crop": false})));
}

#[test]
fn settings_that_do_not_fit_the_model_are_refused_with_both_sizes() {
    for (settings, field) in [
        (json!({"size": 224, "crop_size": 224}), "crop_size"),
        (json!({"size": {"shortest_edge": 224}, "do_center_crop": false}), "size"),
        (json!({"size": {"height": 224, "width": 224}, "do_center_crop": false}), "size"),
    ] {
        let (path, reason) = with_settings(settings.clone()).refusal();

        assert!(path.ends_with(SETTINGS), "{path}");
        let named = format!("`{field}` is 224×224, the model takes images of 32×32");
        assert_eq!(reason, named, "{settings}");
    }
}

#[test]
fn settings_that_are_not_built_here_are_refused_by_name() {
    for (settings, named) in [
        (json!({"resample": 1}), "resample"),
        (json!({"image_processor_type": "SiglipImageProcessor"}), "SiglipImageProcessor"),
        (json!({"size": {"shortest_edge": 32, "longest_edge": 64}}), "size"),
        (json!({"size": {"width": 32}}), "size"),
        (json!({"size": 0}), "size"),
        (json!({"crop_size": {"shortest_edge": 32}}), "crop_size"),
        (json!({"image_std": [0.0, 1.0, 1.0]}), "image_std"),
    ] {
        let (_, reason) = with_settings(settings.clone()).refusal();

        assert!(reason.contains(named), "{settings}: {reason}");
    }
}

#[test]
fn without_cropping_only_square_images_are_taken() {
    let clip = with_settings(json!({"size": 32, "do_center_crop": false})).load();

    let square = clip.image_features(&[photo(90, 90)]);
    let wide = clip.image_features(&[photo(256, 171)]);

    assert!(square.is_ok());
    match wide {
        Err(EngineError::InvalidInput(reason)) => {
            assert!(reason.contains("47×32") && reason.contains("do_center_crop"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

/// 256×171 becomes 47×32, of which 7 pixels are cut at the left and 8 at the right.
#[test]
fn what_lies_outside_the_crop_does_not_matter() {
    let clip = Folder::copy("clip_openai").load();
    let plain = photo(256, 171);
    let striped = |left: u32, right: u32| {
        let mut image = plain.clone();
        for (x, _, pixel) in image.enumerate_pixels_mut() {
            if x < left || x >= 256 - right {
                *pixel = Rgb([255, 0, 255]);
            }
        }
        image
    };

    assert_eq!(features(&clip, &plain), features(&clip, &striped(25, 30)));
    assert_ne!(features(&clip, &plain), features(&clip, &striped(60, 0)));
}

#[test]
fn an_architecture_that_is_not_built_here_is_refused_by_field() {
    for (tower, field, value, named) in [
        ("vision_config", "num_channels", json!(1), "num_channels"),
        ("vision_config", "patch_size", json!(0), "patch_size"),
        ("vision_config", "num_attention_heads", json!(5), "num_attention_heads"),
        ("text_config", "num_attention_heads", json!(3), "num_attention_heads"),
        ("text_config", "hidden_act", json!("relu"), "relu"),
        ("text_config", "vocab_size", json!(600), "639"),
    ] {
        let folder =
            Folder::copy("clip_openai").edit("config.json", |json| json[tower][field] = value);

        let (path, reason) = folder.refusal();

        assert!(path.ends_with("config.json") && reason.contains(named), "{field}: {reason}");
    }
}

/// The fields of the published `config.json` that decide the architecture, with weights of full size. The larger models
/// are cut to one layer, as a test is no place for half a billion numbers.
#[test]
fn the_published_folders_load() {
    let openai_b32 = json!({
        "projection_dim": 512,
        "text_config": {
            "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 512, "intermediate_size": 2048,
            "max_position_embeddings": 77, "num_attention_heads": 8, "num_hidden_layers": 12, "vocab_size": 49408,
        },
        "text_config_dict": null,
        "vision_config": {
            "hidden_act": "quick_gelu", "hidden_size": 768, "image_size": 224, "intermediate_size": 3072,
            "num_attention_heads": 12, "num_hidden_layers": 12, "patch_size": 32,
        },
        "vision_config_dict": null,
    });
    let openai_l14 = json!({
        "projection_dim": 768,
        "text_config": {"eos_token_id": 2, "hidden_size": 768},
        "text_config_dict": {
            "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 1,
            "projection_dim": 768,
        },
        "vision_config": {"hidden_size": 1024},
        "vision_config_dict": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 1,
            "patch_size": 14, "projection_dim": 768,
        },
    });
    let openclip_b32 = json!({
        "projection_dim": 512,
        "text_config": {"hidden_act": "gelu", "num_hidden_layers": 1},
        "vision_config": {"hidden_act": "gelu", "num_hidden_layers": 1},
    });
    let b32 = Shape { text: (512, 2048, 12), vision: (768, 3072, 12, 32), projection_dim: 512 };
    let l14 = Shape { text: (768, 3072, 1), vision: (1024, 4096, 1, 14), projection_dim: 768 };
    let short = Shape { text: (512, 2048, 1), vision: (768, 3072, 1, 32), projection_dim: 512 };
    for (config, shape) in [(openai_b32, b32), (openai_l14, l14), (openclip_b32, short)] {
        let folder = Folder::copy("clip_openai").edit("config.json", |json| *json = config);
        fs::remove_file(folder.path().join(SETTINGS)).unwrap();
        write_random_weights(&folder.path().join("model.safetensors"), &shape.weights());

        let clip = folder.load();
        let images = clip.image_features(&[photo(300, 200)]).unwrap();
        let texts = clip.text_features(&["a photo of a dog"]).unwrap();

        assert_eq!(clip.image_size(), 224);
        assert_eq!(
            (images.dims(), texts.dims()),
            (&[1, shape.projection_dim][..], &[1, shape.projection_dim][..])
        );
        assert!(clip.unexpected_weights.is_empty(), "{:?}", clip.unexpected_weights);
    }
}

/// What decides the shapes of all weights.
struct Shape {
    /// Hidden size, intermediate size, layers.
    text: (usize, usize, usize),
    /// Likewise, and the patch size.
    vision: (usize, usize, usize, usize),
    projection_dim: usize,
}

impl Shape {
    fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let (text, text_wide, text_layers) = self.text;
        let (vision, vision_wide, vision_layers, patch) = self.vision;
        let positions = (224 / patch) * (224 / patch) + 1;
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize]| all.push((name, shape.to_vec()));
        for (tower, dim, wide, layers) in [
            ("text_model", text, text_wide, text_layers),
            ("vision_model", vision, vision_wide, vision_layers),
        ] {
            for layer in (0..layers).map(|i| format!("{tower}.encoder.layers.{i}")) {
                for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                    add(format!("{layer}.self_attn.{projection}.weight"), &[dim, dim]);
                    add(format!("{layer}.self_attn.{projection}.bias"), &[dim]);
                }
                for norm in ["layer_norm1", "layer_norm2"] {
                    add(format!("{layer}.{norm}.weight"), &[dim]);
                    add(format!("{layer}.{norm}.bias"), &[dim]);
                }
                add(format!("{layer}.mlp.fc1.weight"), &[wide, dim]);
                add(format!("{layer}.mlp.fc1.bias"), &[wide]);
                add(format!("{layer}.mlp.fc2.weight"), &[dim, wide]);
                add(format!("{layer}.mlp.fc2.bias"), &[dim]);
            }
        }
        for (norm, dim) in [
            ("text_model.final_layer_norm", text),
            ("vision_model.pre_layrnorm", vision),
            ("vision_model.post_layernorm", vision),
        ] {
            add(format!("{norm}.weight"), &[dim]);
            add(format!("{norm}.bias"), &[dim]);
        }
        add("text_model.embeddings.token_embedding.weight".into(), &[49408, text]);
        add("text_model.embeddings.position_embedding.weight".into(), &[77, text]);
        add("vision_model.embeddings.class_embedding".into(), &[vision]);
        add("vision_model.embeddings.patch_embedding.weight".into(), &[vision, 3, patch, patch]);
        add("vision_model.embeddings.position_embedding.weight".into(), &[positions, vision]);
        add("text_projection.weight".into(), &[self.projection_dim, text]);
        add("visual_projection.weight".into(), &[self.projection_dim, vision]);
        add("logit_scale".into(), &[]);
        all
    }
}

/// A safetensors file in f16, of one random block over and over.
fn write_random_weights(path: &Path, weights: &[(String, Vec<usize>)]) {
    let mut random = Random::new(3, Purpose::DataOrder, 0, 0);
    let number = || half::f16::from_f64(0.1 * (random.uniform() - 0.5)).to_le_bytes();
    let block: Vec<u8> = std::iter::repeat_with(number).take(100_003).flatten().collect();
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in weights {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for _ in 0..end / block.len() {
        file.write_all(&block).unwrap();
    }
    file.write_all(&block[..end % block.len()]).unwrap();
    file.flush().unwrap();
}
