//! Prompt to image: a batch of rows, each with its own conditioning, timestep and scheduler.

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::{
    EngineError, Flow, Result,
    base_model::BaseModel,
    conditioning::{ConceptSet, ConceptUse, Conditioning},
    random::{Purpose, Random},
    schedulers::{Scheduler, SchedulerConfig},
};
use crate::domain::sample::SchedulerName;

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
    pub scheduler: SchedulerName,
    /// How stochastic DDIM is: 0 not at all, 1 as the paper samples.
    pub eta: f64,
    pub width: usize,
    pub height: usize,
}

impl SampleRequest {
    /// Whether the model answers twice a step, as diffusers decides it.
    pub fn is_guided(&self) -> bool {
        self.guidance_scale > 1.0
    }
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
    rows.iter().map(|row| to_rgb(&row.decode(base)?)).collect()
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

/// Takes each row one step further.
///
/// Images of one size share a call. On the CPU our operations round each of them as if it were alone; a GPU's matrix
/// products may round by the size of the batch.
pub fn step(base: &BaseModel, rows: &mut [&mut Row]) -> Result<()> {
    rows.sort_by_key(|row| row.shape); // stable: only groups sizes
    rows.chunk_by_mut(|a, b| a.shape == b.shape).try_for_each(|alike| step_alike(base, alike))
}

/// An image on its way from noise: rows join and leave a batch between any two steps.
pub struct Row {
    /// K and V of the negative prompt and the prompt, or without guidance of the prompt alone.
    conditioning: Conditioning,
    guidance_scale: Option<f64>,
    scheduler: Scheduler,
    latents: Vec<f32>,
    /// `(channels, height, width)` of the latents.
    shape: (usize, usize, usize),
    seed: u64,
    image_index: u64,
    next_step: usize,
}

impl Row {
    /// A row at its first step, its noise drawn from the seed.
    pub fn new(base: &BaseModel, request: &SampleRequest) -> Result<Self> {
        let (channels, height, width) = latent_shape(base, request)?;
        let conditioning = condition(base, request)?;
        let mut latents = vec![0.0; channels * height * width];
        Random::new(request.seed, Purpose::InitialLatents, request.image_index, 0)
            .normals(&mut latents);
        Self::start(base, &base.scheduler, request, conditioning, latents)
    }

    /// A row at its first step, from given parts.
    ///
    /// - `conditioning`: of the negative prompt and the prompt, or without guidance of the prompt alone
    /// - `latents`: `channels · height · width` standard normal numbers
    pub fn start(
        base: &BaseModel,
        config: &SchedulerConfig,
        request: &SampleRequest,
        conditioning: Conditioning,
        mut latents: Vec<f32>,
    ) -> Result<Self> {
        let shape = latent_shape(base, request)?;
        if latents.len() != shape.0 * shape.1 * shape.2 {
            return Err(EngineError::InvalidInput(format!(
                "{} latents for {shape:?}",
                latents.len()
            )));
        }
        let (name, steps) = (request.scheduler, request.num_inference_steps);
        let scheduler = Scheduler::new(name, config, steps, request.eta)?;
        let sigma = scheduler.init_noise_sigma();
        latents.iter_mut().for_each(|value| *value *= sigma);
        Ok(Self {
            conditioning,
            guidance_scale: request.is_guided().then_some(request.guidance_scale),
            scheduler,
            latents,
            shape,
            seed: request.seed,
            image_index: request.image_index,
            next_step: 0,
        })
    }

    /// Steps that are left.
    pub fn remaining(&self) -> usize {
        self.scheduler.timesteps().len() - self.next_step
    }

    /// The image as it stands, `(3, height, width)` in [0, 1].
    pub fn decode(&self, base: &BaseModel) -> Result<Tensor> {
        let (channels, height, width) = self.shape;
        let latents =
            Tensor::from_slice(&self.latents, (1, channels, height, width), &base.device)?;
        let image = base.vae.decode(&(latents / base.vae.scaling_factor())?)?.squeeze(0)?; // (3, H, W)
        Ok(((image / 2.0)? + 0.5)?.clamp(0.0, 1.0)?)
    }

    /// Rows that this image takes in a call of the UNet.
    fn width(&self) -> usize {
        if self.guidance_scale.is_some() { 2 } else { 1 }
    }

    /// `ε_∅ + s (ε_c − ε_∅)`, from one or two answers of the model.
    fn guide(&self, answers: &[f32]) -> Vec<f32> {
        let Some(scale) = self.guidance_scale else { return answers.to_vec() };
        let (negative, positive) = answers.split_at(answers.len() / 2);
        negative.iter().zip(positive).map(|(n, p)| n + scale as f32 * (p - n)).collect()
    }

    /// Applies the scheduler to what the model answered.
    fn advance(&mut self, answers: &[f32]) {
        let model_pred = self.guide(answers);
        let noise = self.scheduler.needs_noise(self.next_step).then(|| {
            let mut noise = vec![0.0; self.latents.len()];
            Random::new(self.seed, Purpose::StepNoise, self.next_step as u64, self.image_index)
                .normals(&mut noise);
            noise
        });
        self.scheduler.step(self.next_step, &model_pred, &mut self.latents, noise.as_deref());
        self.next_step += 1;
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
    let conditioning =
        Conditioning::cat(&rows.iter().map(|row| &row.conditioning).collect::<Vec<_>>())?;

    let model_pred = base.unet.forward(&latents, &timesteps, &conditioning)?; // (rows of the batch, c, h, w)

    let answers: Vec<f32> =
        model_pred.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let mut rest = answers.as_slice();
    for row in rows.iter_mut() {
        let (own, others) = rest.split_at(row.width() * row.latents.len());
        row.advance(own);
        rest = others;
    }
    Ok(())
}

/// K and V of the request's prompts; the guidance half sees the same concepts, as in the paper.
fn condition(base: &BaseModel, request: &SampleRequest) -> Result<Conditioning> {
    let concepts = ConceptSet::new(base, &request.concepts)?;
    let prompt = concepts.condition(base, &request.prompt)?;
    match request.is_guided() {
        true => Conditioning::cat(&[&concepts.condition(base, &request.negative_prompt)?, &prompt]),
        false => Ok(prompt),
    }
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

/// `(3, height, width)` in [0, 1] → bytes.
fn to_rgb(image: &Tensor) -> Result<RgbImage> {
    let (_, height, width) = image.dims3()?;
    let image = image.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let values: Vec<f32> = image.permute((1, 2, 0))?.flatten_all()?.to_vec1()?; // (height, width, 3)
    let bytes = values.into_iter().map(|value| (value * 255.0).round_ties_even() as u8).collect();
    RgbImage::from_raw(width as u32, height as u32, bytes).ok_or_else(|| {
        EngineError::Tensor(candle_core::Error::msg("the decoder's image is not three channels"))
    })
}
