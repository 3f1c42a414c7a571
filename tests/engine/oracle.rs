//! Our networks against those of candle-transformers, another implementation of the same architectures.
//!
//! Both read the same weights and compute in f32 on the CPU. Three differences of candle-transformers 0.11 are known:
//!
//! - Its GEGLU approximates GELU by tanh, where diffusers and we use the error function.
//! - The resnets of its UNet have norms of 32 groups, whatever the config says. So the UNet here is one of 32 groups.
//! - The attention of its autoencoder mixes the images of a batch. So it is given one image at a time.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::clip::text_model::{
    Activation, ClipTextConfig, ClipTextTransformer,
};
use candle_transformers::models::stable_diffusion::unet_2d::{
    BlockConfig, UNet2DConditionModel, UNet2DConditionModelConfig,
};
use candle_transformers::models::stable_diffusion::vae::{AutoEncoderKL, AutoEncoderKLConfig};
use serde_json::Value;
use vstar::engine::BaseModel;

type Weights = HashMap<String, Tensor>;

/// The largest error between f32 implementations that sum in different orders, relative to the largest value. It is some
/// five times what is measured.
const ROUNDING: f64 = 2e-5;

/// A published model: the tiny one, which is trained, and the golden one, which has four levels and random weights.
fn folders() -> [PathBuf; 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    [root.join("models/tiny"), root.join("tests/golden/sd1/model")]
}

fn load(folder: &Path) -> BaseModel {
    BaseModel::load(folder, &Device::Cpu).unwrap()
}

fn config(folder: &Path, part: &str) -> Value {
    let text = fs::read_to_string(folder.join(part).join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn number(config: &Value, field: &str) -> usize {
    config[field].as_u64().unwrap() as usize
}

fn list(config: &Value, field: &str) -> Vec<usize> {
    config[field].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect()
}

fn weights(folder: &Path, file: &str) -> Weights {
    let weights = safetensors::load(folder.join(file), &Device::Cpu).unwrap();
    weights.into_iter().map(|(name, x)| (name, x.to_dtype(DType::F32).unwrap())).collect()
}

fn builder(weights: &Weights) -> VarBuilder<'static> {
    VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu)
}

/// Numbers of about a standard normal distribution, which depend on the seed alone.
fn numbers(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| (0..12).map(|_| uniform()).sum()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The largest error, relative to the largest value.
fn error(actual: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(actual.dims(), expected.dims());
    let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (actual, expected) = (flat(actual), flat(expected));
    assert!(actual.iter().chain(&expected).all(|x| x.is_finite()));
    let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let errors = actual.iter().zip(&expected).map(|(actual, expected)| (actual - expected).abs());
    f64::from(errors.fold(0.0f32, f32::max) / largest)
}

/// A layer whose output channels, or entries, have changed places.
fn rolled(weight: &Tensor) -> Tensor {
    weight.roll(1, 0).unwrap().contiguous().unwrap()
}

/// Asserts that `reference` differs from `actual` by far more than `bound` once one of the weights is out of place.
///
/// So `bound` is tight enough to notice one wrong layer. Every few weights of those whose name begins with one of
/// `prefixes` are tried.
fn assert_each_weight_matters(
    weights: &Weights,
    prefixes: &[&str],
    actual: &Tensor,
    bound: f64,
    reference: impl Fn(&Weights) -> Tensor,
) {
    let tried = |name: &&String| {
        weights[*name].rank() > 1 && prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut names: Vec<&String> = weights.keys().filter(tried).collect();
    names.sort();
    for name in names.iter().step_by(names.len().div_ceil(30)) {
        let mut changed = weights.clone();
        changed.insert((*name).clone(), rolled(&weights[*name]));
        let error = error(&reference(&changed), actual);
        assert!(error > 3.0 * bound, "{name} changes the result by {error}");
    }
}

mod clip {
    use super::*;

    fn reference(folder: &Path, weights: &Weights, ids: &[Vec<u32>]) -> Tensor {
        let config = config(folder, "text_encoder");
        assert_eq!(config["hidden_act"], "quick_gelu");
        let config = ClipTextConfig {
            vocab_size: number(&config, "vocab_size"),
            embed_dim: number(&config, "hidden_size"),
            activation: Activation::QuickGelu,
            intermediate_size: number(&config, "intermediate_size"),
            max_position_embeddings: number(&config, "max_position_embeddings"),
            pad_with: None,
            num_hidden_layers: number(&config, "num_hidden_layers"),
            num_attention_heads: number(&config, "num_attention_heads"),
            projection_dim: number(&config, "projection_dim"),
        };
        // Newer versions of transformers store the names without the model's own.
        let prefixed = weights.keys().any(|name| name.starts_with("text_model."));
        let weights = if prefixed { builder(weights).pp("text_model") } else { builder(weights) };
        let encoder = ClipTextTransformer::new(weights, &config).unwrap();
        let ids = Tensor::new(ids.to_vec(), &Device::Cpu).unwrap();
        encoder.forward_with_mask(&ids, usize::MAX).unwrap()
    }

    #[test]
    fn the_text_encoder_agrees_with_an_independent_implementation() {
        for folder in folders() {
            let base = load(&folder);
            let (tokens, vocabulary) = (
                base.prompt_encoder.text_encoder().max_position_embeddings(),
                base.prompt_encoder.text_encoder().vocab_size(),
            );
            let id = |i: usize| ((i * 7919 + 13) % vocabulary) as u32;
            let ids: Vec<Vec<u32>> =
                (0..2).map(|row| (row * tokens..(row + 1) * tokens).map(id).collect()).collect();
            let weights = weights(&folder, "text_encoder/model.safetensors");

            let actual = base.prompt_encoder.text_encoder().forward(&ids, None).unwrap();

            let expected = reference(&folder, &weights, &ids);
            let error = error(&actual, &expected);
            assert!(error < ROUNDING, "{}: {error}", folder.display());
            assert_each_weight_matters(&weights, &[""], &actual, ROUNDING, |weights| {
                reference(&folder, weights, &ids)
            });
        }
    }
}

mod vae {
    use super::*;

    fn reference(folder: &Path, weights: &Weights) -> AutoEncoderKL {
        let config = config(folder, "vae");
        let (inputs, outputs) = (number(&config, "in_channels"), number(&config, "out_channels"));
        let config = AutoEncoderKLConfig {
            block_out_channels: list(&config, "block_out_channels"),
            layers_per_block: number(&config, "layers_per_block"),
            latent_channels: number(&config, "latent_channels"),
            norm_num_groups: number(&config, "norm_num_groups"),
            use_quant_conv: true,
            use_post_quant_conv: true,
        };
        AutoEncoderKL::new(builder(weights), inputs, outputs, config).unwrap()
    }

    fn one_by_one(batch: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> Tensor {
        let results: Vec<Tensor> =
            (0..batch.dim(0).unwrap()).map(|i| f(&batch.narrow(0, i, 1).unwrap())).collect();
        Tensor::cat(&results, 0).unwrap()
    }

    /// The mean, or the logarithm of the variance, of the reference's posterior.
    ///
    /// It can only be sampled. So `quant_conv` is changed to give the values that are asked for as the mean, with a
    /// variance of zero.
    fn moment(folder: &Path, weights: &Weights, images: &Tensor, half: usize) -> Tensor {
        let mut weights = weights.clone();
        for (name, constant) in [("quant_conv.weight", 0.0), ("quant_conv.bias", -1e4)] {
            let halves = weights[name].chunk(2, 0).unwrap();
            let constant = (halves[0].zeros_like().unwrap() + constant).unwrap();
            let changed = Tensor::cat(&[&halves[half], &constant], 0).unwrap();
            weights.insert(name.to_owned(), changed);
        }
        let reference = reference(folder, &weights);
        one_by_one(images, |image| reference.encode(image).unwrap().sample().unwrap())
    }

    #[test]
    fn encoding_agrees_with_an_independent_implementation() {
        for folder in folders() {
            let base = load(&folder);
            let size = 8 * base.vae.factor();
            let images = numbers(1, &[2, 3, size, size]).tanh().unwrap();
            let weights = weights(&folder, "vae/diffusion_pytorch_model.safetensors");

            let posterior = base.vae.encode(&images).unwrap();

            let log_variance = (posterior.std.log().unwrap() * 2.0).unwrap();
            for (half, actual) in [&posterior.mean, &log_variance].into_iter().enumerate() {
                let expected = moment(&folder, &weights, &images, half);
                let error = error(actual, &expected);
                assert!(error < ROUNDING, "{}, half {half}: {error}", folder.display());
            }
            assert_each_weight_matters(
                &weights,
                &["encoder.", "quant_conv."],
                &posterior.mean,
                ROUNDING,
                |weights| moment(&folder, weights, &images, 0),
            );
        }
    }

    #[test]
    fn decoding_agrees_with_an_independent_implementation() {
        for folder in folders() {
            let base = load(&folder);
            let latents = numbers(2, &[2, base.vae.config().latent_channels, 8, 8]);
            let weights = weights(&folder, "vae/diffusion_pytorch_model.safetensors");
            let decode = |weights: &Weights| {
                let reference = reference(&folder, weights);
                one_by_one(&latents, |latents| reference.decode(latents).unwrap())
            };

            let actual = base.vae.decode(&latents).unwrap();

            let error = error(&actual, &decode(&weights));
            assert!(error < ROUNDING, "{}: {error}", folder.display());
            let prefixes = ["decoder.", "post_quant_conv."];
            assert_each_weight_matters(&weights, &prefixes, &actual, ROUNDING, decode);
        }
    }
}

mod unet {
    use super::*;

    const FILE: &str = "unet/diffusion_pytorch_model.safetensors";

    struct Inputs {
        latents: Tensor,
        text: Tensor,
        timestep: f32,
    }

    impl Inputs {
        fn of(base: &BaseModel, timestep: f32) -> Self {
            let latents = numbers(3, &[2, base.unet.config().in_channels, 8, 8]);
            let text = numbers(4, &[2, 20, base.prompt_encoder.text_encoder().hidden_size()]);
            Self { latents, text, timestep }
        }

        fn actual(&self, base: &BaseModel) -> Tensor {
            let conditioning = base.unet.project(&self.text).unwrap();
            base.unet.forward(&self.latents, &[self.timestep; 2], &conditioning).unwrap()
        }

        fn expected(&self, folder: &Path, weights: &Weights) -> Tensor {
            let unet = reference(folder, builder(weights));
            unet.forward(&self.latents, f64::from(self.timestep), &self.text).unwrap()
        }
    }

    fn reference(folder: &Path, weights: VarBuilder<'_>) -> UNet2DConditionModel {
        let config = config(folder, "unet");
        let types = config["down_block_types"].as_array().unwrap();
        let block = |(out_channels, kind): (usize, &Value)| BlockConfig {
            out_channels,
            use_cross_attn: (kind == "CrossAttnDownBlock2D").then_some(1),
            attention_head_dim: number(&config, "attention_head_dim"), // the number of heads, as in diffusers
        };
        let (inputs, outputs) = (number(&config, "in_channels"), number(&config, "out_channels"));
        let config = UNet2DConditionModelConfig {
            blocks: list(&config, "block_out_channels").into_iter().zip(types).map(block).collect(),
            layers_per_block: number(&config, "layers_per_block"),
            norm_num_groups: number(&config, "norm_num_groups"),
            norm_eps: config["norm_eps"].as_f64().unwrap(),
            cross_attention_dim: number(&config, "cross_attention_dim"),
            use_linear_projection: config["use_linear_projection"].as_bool().unwrap(),
            ..UNet2DConditionModelConfig::default()
        };
        UNet2DConditionModel::new(weights, inputs, outputs, false, config).unwrap()
    }

    /// The golden model with another UNet, of random weights and norms of 32 groups.
    ///
    /// - `gate`: what the gates of its GEGLU layers are multiplied by
    fn model(gate: f64) -> tempfile::TempDir {
        let [_, golden] = folders();
        let folder = tempfile::tempdir().unwrap();
        for part in ["scheduler", "text_encoder", "tokenizer", "unet", "vae"] {
            fs::create_dir(folder.path().join(part)).unwrap();
            for file in fs::read_dir(golden.join(part)).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), folder.path().join(part).join(file.file_name())).unwrap();
            }
        }
        let mut config = config(&golden, "unet");
        config["block_out_channels"] = vec![64, 64, 96, 96].into();
        config["norm_num_groups"] = 32.into();
        fs::write(folder.path().join("unet/config.json"), config.to_string()).unwrap();

        let variables = VarMap::new(); // takes the names and shapes that the reference asks for
        reference(folder.path(), VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu));
        let mut shapes: Vec<(String, Vec<usize>)> = variables
            .data()
            .lock()
            .unwrap()
            .iter()
            .map(|(name, variable)| (name.clone(), variable.dims().to_vec()))
            .collect();
        shapes.sort();
        let weight = |(seed, (name, shape)): (usize, (String, Vec<usize>))| {
            let inputs: usize = shape[1..].iter().product();
            let values = numbers(seed as u64, &shape);
            let values = match (shape.len(), name.contains("norm") && name.ends_with("weight")) {
                (1, true) => ((values * 0.1).unwrap() + 1.0).unwrap(),
                (1, false) => (values * 0.1).unwrap(),
                _ => (values * (inputs as f64).powf(-0.5)).unwrap(),
            };
            if !name.contains("ff.net.0.proj") {
                return (name, values);
            }
            let halves = values.chunk(2, 0).unwrap();
            let gate = (&halves[1] * gate).unwrap();
            (name, Tensor::cat(&[&halves[0], &gate], 0).unwrap())
        };
        let weights: Weights = shapes.into_iter().enumerate().map(weight).collect();
        safetensors::save(&weights, folder.path().join(FILE)).unwrap();
        folder
    }

    /// The two forms of GELU differ by up to 5e-4, but by less than 1e-7 where a gate is below 0.1. So without the known
    /// difference, all else has to agree within rounding.
    #[test]
    fn the_unet_agrees_with_an_independent_implementation_but_for_its_gelu() {
        let folder = model(0.01);
        let base = load(folder.path());
        let weights = weights(folder.path(), FILE);
        for timestep in [1.0, 21.0, 999.0] {
            let inputs = Inputs::of(&base, timestep);

            let actual = inputs.actual(&base);

            let error = error(&actual, &inputs.expected(folder.path(), &weights));
            assert!(error < ROUNDING, "step {timestep}: {error}");
        }
        let inputs = Inputs::of(&base, 21.0);
        assert_each_weight_matters(&weights, &[""], &inputs.actual(&base), ROUNDING, |weights| {
            inputs.expected(folder.path(), weights)
        });
    }

    #[test]
    fn the_whole_unet_agrees_within_the_error_of_the_others_gelu() {
        let folder = model(1.0);
        let base = load(folder.path());
        let inputs = Inputs::of(&base, 500.0);

        let actual = inputs.actual(&base);

        let weights = weights(folder.path(), FILE);
        let error = error(&actual, &inputs.expected(folder.path(), &weights));
        assert!(error < 1e-3, "{error}");
    }
}
