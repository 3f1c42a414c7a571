//! Prompt to image: a batch of rows, each with its own conditioning, timestep and scheduler.

use std::ops::RangeInclusive;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use image::imageops::{self, FilterType};

use super::{
    EngineError, Flow, Result,
    base_model::BaseModel,
    conditioning::{ConceptSet, ConceptUse, Conditioning},
    random::{Purpose, Random},
    schedulers::{Scheduler, SchedulerConfig},
};
use crate::domain::sample::{Determinism, SchedulerName};

/// The most latent cells a side that a preview is decoded from.
const PREVIEW_CELLS: usize = 32;

/// One image to draw.
#[derive(Clone)]
pub struct SampleRequest {
    pub prompt: String,
    /// What guidance leads away from; empty is the usual unconditional half.
    pub negative_prompt: String,
    pub concepts: Vec<ConceptUse>,
    pub seed: u64,
    /// Which of the images with this seed.
    pub image_index: u64,
    pub num_inference_steps: usize,
    /// 1 (or less) draws without guidance.
    pub guidance_scale: f64,
    /// How much of the concepts the negative prompt's K and V have: 1 as in the paper, 0 the base model's.
    pub unconditional_strength: f64,
    /// From where to where on the way from noise, 0, to image, 1, guidance is applied: the first and last noise level
    /// of Kynkäänniemi et al. (arXiv:2404.07724), as `1 − t / num_train_timesteps`. Elsewhere the row is half as wide.
    pub guidance_interval: [f64; 2],
    pub scheduler: SchedulerName,
    /// How stochastic DDIM is: 0 not at all, 1 as the paper samples.
    pub eta: f64,
    pub width: usize,
    pub height: usize,
    /// What to start from instead of noise alone.
    pub init: Option<InitImage>,
    pub determinism: Determinism,
}

/// An image to start from, and how much of it is drawn anew.
#[derive(Clone)]
pub struct InitImage {
    /// What [`encode_init`] makes of it.
    pub latents: Arc<[f32]>,
    /// The share of the steps that are taken, in (0, 1]: 1 leaves little of the image.
    pub noise_strength: f64,
}

impl SampleRequest {
    /// Whether the model answers twice a step, as diffusers decides it.
    pub fn is_guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// The most rows that the image takes in one call of the UNet.
    pub fn max_width(&self) -> usize {
        if self.is_guided() { 2 } else { 1 }
    }

    /// Steps left out at the beginning, as diffusers counts them.
    fn skipped_steps(&self) -> usize {
        let Some(init) = &self.init else { return 0 };
        let taken = (self.num_inference_steps as f64 * init.noise_strength) as usize;
        self.num_inference_steps - taken.min(self.num_inference_steps)
    }
}

/// K and V of the prompts of one image.
#[derive(Clone, Debug)]
pub struct Prompts {
    pub prompt: Conditioning,
    /// Of the negative prompt; `None` without guidance.
    pub negative: Option<Conditioning>,
}

impl Prompts {
    /// Encodes and projects the request's prompts.
    pub fn new(base: &BaseModel, request: &SampleRequest) -> Result<Self> {
        let concepts = ConceptSet::new(base, &request.concepts)?;
        Self::made_by(request, &mut |prompt, share| concepts.scaled(share).condition(base, prompt))
    }

    /// The same with K and V from elsewhere, such as a cache: `condition` makes them of a prompt and the request's
    /// concepts at a share of their strength.
    pub fn made_by(
        request: &SampleRequest,
        condition: &mut dyn FnMut(&str, f64) -> Result<Conditioning>,
    ) -> Result<Self> {
        let negative = match request.is_guided() {
            true => Some(condition(&request.negative_prompt, request.unconditional_strength)?),
            false => None,
        };
        Ok(Self { prompt: condition(&request.prompt, 1.0)?, negative })
    }
}

/// The latents of an image to start from, `channels · height · width` as the UNet sees them.
///
/// The image is scaled to cover `width` × `height` and cut in its middle. Its latents are the posterior's mean, where
/// diffusers draws from it: what starts there is noised anyway, and all images of a request start from the same.
pub fn encode_init(
    base: &BaseModel,
    image: &RgbImage,
    width: usize,
    height: usize,
) -> Result<Arc<[f32]>> {
    let covered = cover(image, width as u32, height as u32);
    let values: Vec<f32> =
        covered.as_raw().iter().map(|&value| f32::from(value) / 127.5 - 1.0).collect();
    let pixels = Tensor::from_vec(values, (1, height, width, 3), &base.device)?;
    let mean = base.vae.encode(&pixels.permute((0, 3, 1, 2))?.contiguous()?)?.mean;
    let latents = (mean.to_dtype(DType::F32)? * base.vae.scaling_factor())?;
    Ok(latents.flatten_all()?.to_vec1::<f32>()?.into())
}

/// Scales an image to cover a size, and cuts what stands out at opposite sides alike.
fn cover(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (from_width, from_height) = (u64::from(image.width()), u64::from(image.height()));
    let (to_width, to_height) = (u64::from(width), u64::from(height));
    // The part of the image that has the wanted shape, as large as can be.
    let (part_width, part_height) = if from_width * to_height > from_height * to_width {
        ((from_height * to_width / to_height).max(1), from_height)
    } else {
        (from_width, (from_width * to_height / to_width).max(1))
    };
    let (left, top) = ((from_width - part_width) / 2, (from_height - part_height) / 2);
    let part =
        imageops::crop_imm(image, left as u32, top as u32, part_width as u32, part_height as u32);
    imageops::resize(&part.to_image(), width, height, FilterType::CatmullRom)
}

/// Draws a batch of images, together and yet each as if alone.
///
/// `observe` is told after each step of how many, and may answer stop.
pub fn sample(
    base: &BaseModel,
    requests: &[SampleRequest],
    observe: &mut dyn FnMut(usize, usize) -> Flow,
) -> Result<Vec<RgbImage>> {
    let mut rows =
        requests.iter().map(|request| Row::new(base, request)).collect::<Result<Vec<_>>>()?;
    denoise(base, &mut rows, observe)?;
    pictures(base, &rows.iter().collect::<Vec<_>>())
}

/// Runs all rows to their ends; a row with fewer steps than others leaves the batch early.
pub fn denoise(
    base: &BaseModel,
    rows: &mut [Row],
    observe: &mut dyn FnMut(usize, usize) -> Flow,
) -> Result<()> {
    let steps = rows.iter().map(Row::remaining).max().unwrap_or(0);
    for done in 1..=steps {
        let mut unfinished: Vec<&mut Row> =
            rows.iter_mut().filter(|row| row.remaining() > 0).collect();
        step(base, &mut unfinished)?;
        if observe(done, steps) == Flow::Stop {
            return Err(EngineError::Stopped);
        }
    }
    Ok(())
}

/// The images of rows that are at their ends, in their order; rows that share calls are decoded in one.
pub fn pictures(base: &BaseModel, rows: &[&Row]) -> Result<Vec<RgbImage>> {
    let mut order: Vec<(Company, usize)> =
        rows.iter().enumerate().map(|(index, row)| (row.company(base), index)).collect();
    order.sort_unstable(); // by company, then by index
    let mut pictures = Vec::with_capacity(rows.len());
    for call in order.chunk_by(|(a, _), (b, _)| a.shares_with(b)) {
        let latents: Vec<&[f32]> = call.iter().map(|&(_, index)| &*rows[index].latents).collect();
        let images = decode(base, &latents, call[0].0.shape)?; // (rows, 3, H, W)
        for (nth, &(_, index)) in call.iter().enumerate() {
            pictures.push((index, to_rgb(&images.get(nth)?)?));
        }
    }
    pictures.sort_by_key(|(index, _)| *index);
    Ok(pictures.into_iter().map(|(_, picture)| picture).collect())
}

/// Takes each row one step further.
pub fn step(base: &BaseModel, rows: &mut [&mut Row]) -> Result<()> {
    rows.sort_by_key(|row| row.company(base)); // stable
    rows.chunk_by_mut(|a, b| a.company(base).shares_with(&b.company(base)))
        .try_for_each(|alike| step_alike(base, alike))
}

/// With whom a row shares its calls.
///
/// Images of one size share them. On the CPU our operations round each as if it were alone; a GPU's products may round by
/// the size of the batch, so there a strict row has calls of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Company {
    /// `(channels, height, width)` of the latents.
    shape: (usize, usize, usize),
    alone: bool,
}

impl Company {
    fn new(shape: (usize, usize, usize), determinism: Determinism, on_cpu: bool) -> Self {
        Self { shape, alone: determinism == Determinism::Strict && !on_cpu }
    }

    fn shares_with(&self, other: &Self) -> bool {
        self.shape == other.shape && !self.alone && !other.alone
    }
}

/// An image on its way from noise: rows join and leave a batch between any two steps.
pub struct Row {
    prompts: Prompts,
    guidance_scale: f64,
    /// Between which timesteps guidance is applied, both included.
    guided_timesteps: RangeInclusive<f32>,
    scheduler: Scheduler,
    latents: Vec<f32>,
    /// What the last step took the finished latents to be, for previews.
    predicted: Option<Vec<f32>>,
    /// `(channels, height, width)` of the latents.
    shape: (usize, usize, usize),
    seed: u64,
    image_index: u64,
    next_step: usize,
    determinism: Determinism,
}

impl Row {
    /// A row at its first step, its noise drawn from the seed.
    pub fn new(base: &BaseModel, request: &SampleRequest) -> Result<Self> {
        let prompts = Prompts::new(base, request)?;
        Self::with_prompts(base, request, prompts)
    }

    /// A row at its first step whose prompts have been encoded before.
    pub fn with_prompts(
        base: &BaseModel,
        request: &SampleRequest,
        prompts: Prompts,
    ) -> Result<Self> {
        let (channels, height, width) = latent_shape(base, request)?;
        let mut noise = vec![0.0; channels * height * width];
        Random::new(request.seed, Purpose::InitialLatents, request.image_index, 0)
            .normals(&mut noise);
        Self::start(base, &base.scheduler, request, prompts, noise)
    }

    /// A row at its first step, from given parts.
    ///
    /// - `noise`: `channels · height · width` standard normal numbers
    pub fn start(
        base: &BaseModel,
        config: &SchedulerConfig,
        request: &SampleRequest,
        prompts: Prompts,
        noise: Vec<f32>,
    ) -> Result<Self> {
        let shape = latent_shape(base, request)?;
        let size = shape.0 * shape.1 * shape.2;
        let init = request.init.as_ref().map_or(size, |init| init.latents.len());
        if noise.len() != size || init != size {
            let text = format!("{} latents and {init} of the image for {shape:?}", noise.len());
            return Err(EngineError::InvalidInput(text));
        }
        let (name, steps) = (request.scheduler, request.num_inference_steps);
        let scheduler = Scheduler::late(name, config, steps, request.eta, request.skipped_steps())?;
        let latents = match &request.init {
            None => {
                let sigma = scheduler.init_noise_sigma();
                noise.into_iter().map(|value| value * sigma).collect()
            }
            Some(init) => scheduler.add_noise(&init.latents, &noise),
        };
        let trained = config.num_train_timesteps as f64;
        let [start, end] = request.guidance_interval.map(|at| ((1.0 - at) * trained) as f32);
        Ok(Self {
            prompts,
            guidance_scale: request.guidance_scale,
            guided_timesteps: end..=start,
            scheduler,
            latents,
            predicted: None,
            shape,
            seed: request.seed,
            image_index: request.image_index,
            next_step: 0,
            determinism: request.determinism,
        })
    }

    /// Steps that are left.
    pub fn remaining(&self) -> usize {
        self.scheduler.timesteps().len() - self.next_step
    }

    /// Steps in all.
    pub fn total_steps(&self) -> usize {
        self.scheduler.timesteps().len()
    }

    /// Rows that this image takes in the next call of the UNet: two where it is guided.
    pub fn width(&self) -> usize {
        if self.negative().is_some() { 2 } else { 1 }
    }

    /// The image as it stands, `(3, height, width)` in [0, 1].
    pub fn decode(&self, base: &BaseModel) -> Result<Tensor> {
        Ok(decode(base, &[&self.latents], self.shape)?.squeeze(0)?)
    }

    /// A small picture of what the image will be, as far as the last step knew; `None` before the first.
    ///
    /// Decoded from at most 32 latent cells a side: more are averaged.
    pub fn preview(&self, base: &BaseModel) -> Result<Option<RgbImage>> {
        let Some(predicted) = &self.predicted else { return Ok(None) };
        let (small, shape) = shrink(predicted, self.shape, PREVIEW_CELLS);
        Ok(Some(to_rgb(&decode(base, &[&small], shape)?.squeeze(0)?)?))
    }

    fn company(&self, base: &BaseModel) -> Company {
        Company::new(self.shape, self.determinism, base.device.is_cpu())
    }

    /// What guidance leads away from in the next step.
    fn negative(&self) -> Option<&Conditioning> {
        let timestep = self.scheduler.timesteps().get(self.next_step)?;
        self.prompts.negative.as_ref().filter(|_| self.guided_timesteps.contains(timestep))
    }

    /// `ε_∅ + s (ε_c − ε_∅)`, from one or two answers of the model.
    fn guide(&self, answers: &[f32]) -> Vec<f32> {
        if self.negative().is_none() {
            return answers.to_vec();
        }
        let scale = self.guidance_scale as f32;
        let (negative, positive) = answers.split_at(answers.len() / 2);
        negative.iter().zip(positive).map(|(n, p)| n + scale * (p - n)).collect()
    }

    /// Applies the scheduler to what the model answered.
    fn advance(&mut self, answers: &[f32]) -> Result<()> {
        let model_pred = self.guide(answers);
        if model_pred.iter().any(|value| !value.is_finite()) {
            return Err(EngineError::NotFinite { step: self.next_step + 1 });
        }
        let noise = self.scheduler.needs_noise(self.next_step).then(|| {
            let mut noise = vec![0.0; self.latents.len()];
            Random::new(self.seed, Purpose::StepNoise, self.next_step as u64, self.image_index)
                .normals(&mut noise);
            noise
        });
        self.predicted =
            Some(self.scheduler.predicted_x0(self.next_step, &model_pred, &self.latents));
        self.scheduler.step(self.next_step, &model_pred, &mut self.latents, noise.as_deref());
        self.next_step += 1;
        Ok(())
    }
}

/// One step of rows of the same size.
fn step_alike(base: &BaseModel, rows: &mut [&mut Row]) -> Result<()> {
    let (channels, height, width) = rows[0].shape;
    let mut latents = Vec::new();
    let mut timesteps = Vec::new();
    for row in rows.iter() {
        let scaled = row.scheduler.scale_model_input(row.next_step, &row.latents);
        for _ in 0..row.width() {
            latents.extend_from_slice(&scaled);
            timesteps.push(row.scheduler.timesteps()[row.next_step]);
        }
    }
    let latents =
        Tensor::from_vec(latents, (timesteps.len(), channels, height, width), &base.device)?;
    let parts = rows.iter().flat_map(|row| row.negative().into_iter().chain([&row.prompts.prompt]));
    let conditioning = Conditioning::cat(&parts.collect::<Vec<_>>())?;

    let model_pred = base.unet.forward(&latents, &timesteps, &conditioning)?; // (rows of the batch, c, h, w)

    let answers: Vec<f32> =
        model_pred.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let mut rest = answers.as_slice();
    for row in rows.iter_mut() {
        let (own, others) = rest.split_at(row.width() * row.latents.len());
        row.advance(own)?;
        rest = others;
    }
    Ok(())
}

fn latent_shape(base: &BaseModel, request: &SampleRequest) -> Result<(usize, usize, usize)> {
    let (width, height, factor) = (request.width, request.height, base.vae.factor());
    if width == 0 || height == 0 || !width.is_multiple_of(factor) || !height.is_multiple_of(factor)
    {
        let text = format!(
            "an image of {width}×{height} cannot be drawn: both must be multiples of {factor}"
        );
        return Err(EngineError::InvalidInput(text));
    }
    Ok((base.vae.config().latent_channels, height / factor, width / factor))
}

/// Latents of one shape as the UNet sees them → `(rows, 3, height, width)` in [0, 1].
fn decode(
    base: &BaseModel,
    latents: &[&[f32]],
    (channels, height, width): (usize, usize, usize),
) -> Result<Tensor> {
    let shape = (latents.len(), channels, height, width);
    let latents = Tensor::from_vec(latents.concat(), shape, &base.device)?;
    let images = base.vae.decode(&(latents / base.vae.scaling_factor())?)?;
    Ok(((images / 2.0)? + 0.5)?.clamp(0.0, 1.0)?)
}

/// Means over squares of cells, as small as needed for at most `cells` a side.
fn shrink(
    latents: &[f32],
    (channels, height, width): (usize, usize, usize),
    cells: usize,
) -> (Vec<f32>, (usize, usize, usize)) {
    let by = height.max(width).div_ceil(cells);
    if by == 1 {
        return (latents.to_vec(), (channels, height, width));
    }
    let (small_height, small_width) = (height.div_ceil(by), width.div_ceil(by));
    let mut small = Vec::with_capacity(channels * small_height * small_width);
    for plane in latents.chunks_exact(height * width) {
        for top in (0..height).step_by(by) {
            for left in (0..width).step_by(by) {
                let rows = top..(top + by).min(height);
                let columns = left..(left + by).min(width);
                let count = (rows.len() * columns.len()) as f32;
                let sum: f32 =
                    rows.map(|row| plane[row * width..][columns.clone()].iter().sum::<f32>()).sum();
                small.push(sum / count);
            }
        }
    }
    (small, (channels, small_height, small_width))
}

/// `(3, height, width)` in [0, 1] → bytes.
pub fn to_rgb(image: &Tensor) -> Result<RgbImage> {
    let (_, height, width) = image.dims3()?;
    let image = image.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let values: Vec<f32> = image.permute((1, 2, 0))?.flatten_all()?.to_vec1()?; // (height, width, 3)
    let bytes = values.into_iter().map(|value| (value * 255.0).round_ties_even() as u8).collect();
    RgbImage::from_raw(width as u32, height as u32, bytes).ok_or_else(|| {
        EngineError::Tensor(candle_core::Error::msg("the decoder's image is not three channels"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_rows_of_a_gpu_share_no_call() {
        use Determinism::{Fast, Strict};
        let rows = [(16, Strict), (16, Fast), (8, Fast), (16, Strict), (16, Fast), (8, Strict)];
        let calls = |on_cpu| {
            let of = |&(side, determinism)| Company::new((4, side, side), determinism, on_cpu);
            let mut companies: Vec<Company> = rows.iter().map(of).collect();
            companies.sort();
            let calls = companies.chunk_by(|a, b| a.shares_with(b));
            calls.map(|call| (call[0].shape.1, call.len())).collect::<Vec<_>>()
        };

        assert_eq!(calls(true), [(8, 2), (16, 4)]);
        assert_eq!(calls(false), [(8, 1), (8, 1), (16, 2), (16, 1), (16, 1)]);
    }
}
