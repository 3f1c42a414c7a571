//! What is timed, on random input of the models' shapes.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};

use super::Computing;
use super::args::{BenchArgs, Work};
use crate::domain::merge::MergeRecipe;
use crate::domain::training::TrainingRecipe;
use crate::engine::clip::ClipTextEncoder;
use crate::engine::random::{Purpose, Random};
use crate::engine::schedulers::SchedulerConfig;
use crate::engine::unet::UNet2DConditionModel;
use crate::engine::vae::AutoencoderKl;
use crate::engine::weights::{WeightFiles, read_json};
use crate::engine::{
    Batch, FrozenModel, KeyValues, Merge, MergePack, PackUse, Parameters, RegularizationStatistics,
    Trainer, kv_weights,
};
use crate::text_index::TextIndex;

/// One call of the work.
pub(super) type Call = Box<dyn FnMut() -> Result<()>>;

/// The work, and what it is measured beside.
pub(super) struct Prepared {
    pub(super) call: Call,
    pub(super) beside: Option<(&'static str, Call)>,
}

/// Loads what the work needs to the device.
pub(super) fn prepare(args: &BenchArgs, computing: Computing<'_>) -> Result<Prepared> {
    let Computing { device, dtype, precision } = computing;
    let (batch, latent) = (args.batch, args.latent);
    let folder = |name: &str| args.model.join(name);
    let files = |name: &str, stem: &str| {
        WeightFiles::open(&folder(name), stem, device, dtype)
            .map(|files| files.with_precision(precision))
    };
    let unet =
        || UNet2DConditionModel::load(&folder("unet"), &files("unet", "diffusion_pytorch_model")?);
    let vae = || AutoencoderKl::load(&folder("vae"), &files("vae", "diffusion_pytorch_model")?);
    let text_encoder =
        || ClipTextEncoder::load(&folder("text_encoder"), &files("text_encoder", "model")?);
    let alone = |call| Ok(Prepared { call, beside: None });
    let random = |stream: u64, shape: &[usize]| -> Result<Tensor> {
        Ok(normal(stream, shape)?.to_device(device)?)
    };
    match args.what {
        Work::Retrieve => {
            let (index, prompt) = captions_to_search(batch, latent);
            alone(Box::new(move || {
                index.search(&prompt, 0.0, 200);
                Ok(())
            }))
        }
        Work::Job | Work::Memory => bail!("this is not timed call by call"),
        Work::Denoise => {
            let unet = unet()?;
            let features = random(0, &[batch, 77, unet.config().cross_attention_dim()])?;
            let key_values = unet.project(&features)?;
            let latents = random(1, &[batch, unet.config().in_channels, latent, latent])?;
            let timesteps = float_timesteps(batch);
            alone(Box::new(move || denoise(&unet, &latents, &timesteps, &key_values)))
        }
        Work::Train => {
            let unet = unet()?;
            let text_encoder = text_encoder()?;
            let scheduler =
                read_json::<SchedulerConfig>(&folder("scheduler").join("scheduler_config.json"))?;
            let row = some_row(&text_encoder)?.to_device(device)?;
            let frozen =
                FrozenModel { unet: &unet, text_encoder: &text_encoder, scheduler: &scheduler };
            let recipe = TrainingRecipe::paper();
            let parameters = Parameters::new(frozen, Some(row), &recipe)?;
            let mut trainer = Trainer::new(parameters, frozen, &recipe)?
                .with_memory_budget(args.memory_budget.map(|budget| budget.0));
            let shape = [batch, unet.config().in_channels, latent, latent];
            let batch = Batch {
                latents: random(1, &shape)?,
                noise: random(2, &shape)?,
                timesteps: timesteps(batch, scheduler.num_train_timesteps),
                input_ids: captions(&text_encoder, batch),
                mask: Tensor::ones((batch, 1, latent, latent), DType::F32, device)?,
                is_class_image: vec![false; batch],
            };
            alone(Box::new(move || {
                let frozen =
                    FrozenModel { unet: &unet, text_encoder: &text_encoder, scheduler: &scheduler };
                trainer.step(frozen, &batch, 8e-5)?;
                Ok(())
            }))
        }
        Work::VaeEncode => {
            let vae = vae()?;
            let side = latent * vae.factor();
            let images = random(1, &[batch, 3, side, side])?;
            alone(Box::new(move || {
                vae.encode(&images)?;
                Ok(())
            }))
        }
        Work::VaeDecode => {
            let vae = vae()?;
            let latents = random(1, &[batch, vae.config().latent_channels, latent, latent])?;
            alone(Box::new(move || {
                vae.decode(&latents)?;
                Ok(())
            }))
        }
        Work::Text => {
            let text_encoder = text_encoder()?;
            let mut ids = captions(&text_encoder, batch);
            for caption in &mut ids {
                caption[4] = 0; // no modifier token
            }
            alone(Box::new(move || {
                text_encoder.forward(&ids, None)?;
                Ok(())
            }))
        }
        Work::Merge => {
            let (unet, text_encoder) = (Rc::new(unet()?), text_encoder()?);
            let (statistics, packs) = merge_packs(&unet, &text_encoder, batch)?;
            let caption = captions(&text_encoder, 1);
            let caption = text_encoder.forward(&caption, Some(&some_row(&text_encoder)?))?;
            let caption = caption.squeeze(0)?; // (tokens, text_dim)
            let recipe = MergeRecipe::default();
            let solve = Arc::new(move || Merge::solve(&statistics, &packs, &recipe));
            let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
            let to_prompt = {
                let (solve, unet) = (solve.clone(), unet.clone());
                move || {
                    let layers = unet.cross_attention();
                    one_core.install(|| solve()?.change(&caption, layers))?;
                    Ok(())
                }
            };
            let kv_weights = kv_weights(unet.cross_attention());
            let to_matrices = move || {
                solve()?.weights(unet.cross_attention())?.densify(&kv_weights)?;
                Ok(())
            };
            Ok(Prepared {
                call: Box::new(to_prompt),
                beside: Some(("whole matrices", Box::new(to_matrices))),
            })
        }
        Work::Mixed => {
            let unet = Rc::new(unet()?);
            let width = unet.config().cross_attention_dim();
            let elements = (0..batch as u64)
                .map(|element| Ok(unet.project(&random(2 + element, &[1, 77, width])?)?))
                .collect::<Result<Vec<_>>>()?;
            let latents = random(1, &[batch, unet.config().in_channels, latent, latent])?;
            let call = |elements: Vec<KeyValues>| -> Call {
                let (unet, latents) = (unet.clone(), latents.clone());
                let timesteps = float_timesteps(batch);
                Box::new(move || {
                    let key_values = KeyValues::cat(&elements.iter().collect::<Vec<_>>())?;
                    denoise(&unet, &latents, &timesteps, &key_values)
                })
            };
            let one = vec![elements[0].clone(); batch];
            Ok(Prepared { call: call(elements), beside: Some(("one concept", call(one))) })
        }
    }
}

/// The vectors of so many captions, and that of a prompt.
fn captions_to_search(captions: usize, width: usize) -> (TextIndex, Vec<f32>) {
    let mut random = Random::new(0, Purpose::Noise, 0, 0);
    // A thousand random rows, over and over: to draw a million times 512 numbers would take longer than the search.
    let mut rows = vec![0.0; 1009 * width];
    random.normals(&mut rows);
    let features: Vec<f32> = rows.iter().copied().cycle().take(captions * width).collect();
    let prompt: Vec<f32> = rows[..width].to_vec();
    let row_of = (0..captions as u32).collect();
    (TextIndex::from_features(width, &features, row_of), prompt)
}

/// The packs of so many concepts with a modifier token: as many rows as prompts give, of random captions.
fn merge_packs(
    unet: &UNet2DConditionModel,
    text_encoder: &ClipTextEncoder,
    concepts: usize,
) -> Result<(RegularizationStatistics, Vec<PackUse>)> {
    let modifier = some_row(text_encoder)?;
    let mut random = Random::new(0, Purpose::DataOrder, 1, 0);
    let mut rows = |wanted: usize| -> Result<Tensor> {
        let mut features = Vec::new();
        let mut count = 0;
        while count < wanted {
            let ids: Vec<u32> = (0..text_encoder.max_position_embeddings())
                .map(|_| random.below(text_encoder.vocab_size()) as u32)
                .collect();
            let caption = text_encoder.forward(&[ids], Some(&modifier))?.squeeze(0)?;
            count += caption.dim(0)?;
            features.push(caption);
        }
        Ok(Tensor::cat(&features, 0)?.narrow(0, 0, wanted)?)
    };
    let empty = rows(text_encoder.max_position_embeddings())?;
    let statistics =
        RegularizationStatistics::of_features(&rows(4 * text_encoder.hidden_size())?, &empty)?;
    let width: usize = unet.cross_attention().iter().map(|layer| 2 * layer.to_k.dims()[0]).sum();
    let packs = (0..concepts as u64).map(|concept| {
        // Two tokens of a name, the end mark and two of padding in three prompts where the concept is alone; the name in
        // six where it follows another thing; the noun and the end mark in three.
        let (targets, nouns) = (15 + 12, 6);
        let changes = normal(concept, &[targets, width])?;
        let pack = MergePack::of_features(rows(targets)?, changes, rows(nouns)?);
        Ok(PackUse { pack: Arc::new(pack), strength: 1.0 })
    });
    Ok((statistics, packs.collect::<Result<_>>()?))
}

/// An embedding row for the modifier token.
fn some_row(text_encoder: &ClipTextEncoder) -> Result<Tensor> {
    let row = text_encoder.embedding_row(0)?;
    Ok(Tensor::from_vec(row, (1, text_encoder.hidden_size()), &Device::Cpu)?)
}

fn denoise(
    unet: &UNet2DConditionModel,
    latents: &Tensor,
    timesteps: &[f32],
    key_values: &KeyValues,
) -> Result<()> {
    unet.forward(latents, timesteps, key_values)?;
    Ok(())
}

fn normal(stream: u64, shape: &[usize]) -> Result<Tensor> {
    let mut values = vec![0.0; shape.iter().product()];
    Random::new(0, Purpose::Noise, 0, stream).normals(&mut values);
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn float_timesteps(batch: usize) -> Vec<f32> {
    timesteps(batch, 1000).into_iter().map(|t| t as f32).collect()
}

fn timesteps(batch: usize, of: usize) -> Vec<u32> {
    let mut random = Random::new(0, Purpose::Timestep, 0, 0);
    (0..batch).map(|_| random.below(of) as u32).collect()
}

/// Random ids; the first half of the captions hold the modifier token at position 4.
fn captions(text_encoder: &ClipTextEncoder, batch: usize) -> Vec<Vec<u32>> {
    let mut random = Random::new(0, Purpose::DataOrder, 0, 0);
    let vocab_size = text_encoder.vocab_size();
    (0..batch)
        .map(|caption| {
            let mut ids: Vec<u32> = (0..text_encoder.max_position_embeddings())
                .map(|_| random.below(vocab_size - 3) as u32)
                .collect();
            if caption < (batch / 2).max(1) {
                ids[4] = vocab_size as u32;
            }
            ids
        })
        .collect()
}
