//! Everything of a training that is computed once, before its loop: latents of all images, token ids of all captions.

use candle_core::Tensor;
use rayon::prelude::*;

use super::augmentation::{Canvas, PreparedImage, augment_instance, prepare_class_image};
use super::batch::Batch;
use super::input::{TrainingConcept, TrainingInput};
use crate::domain::training::TrainingRecipe;
use crate::engine::base_model::BaseModel;
use crate::engine::error::{EngineError, Result};
use crate::engine::flow::Flow;
use crate::engine::random::{Purpose, Random};

/// Augmented versions of each instance image that are encoded; every step draws from this pool.
const AUGMENTATIONS_PER_IMAGE: usize = 48;
/// Images that pass the VAE together.
const ENCODE_BATCH: usize = 8;

/// The images of a training as VAE posteriors, with the captions that they may be trained with.
pub(crate) struct Dataset {
    concepts: Vec<ConceptData>,
    /// Channels, height and width of a latent.
    latent_shape: [usize; 3],
    scaling_factor: f32,
}

/// One concept's images.
struct ConceptData {
    instances: Vec<Encoded>,
    class_images: Vec<Encoded>,
}

/// One image as the VAE sees it: a Gaussian over latents, so that each step samples new latents.
struct Encoded {
    mean: Vec<f32>,
    std: Vec<f32>,
    /// How much each latent cell counts in the loss, from 0 to 1.
    mask: Vec<f32>,
    /// The captions it may be trained with, as padded token ids.
    captions: Vec<Vec<u32>>,
}

impl Dataset {
    /// Augments and encodes the images of `input`. `observe` is called with the number of encoded images and the total.
    pub(crate) fn encode(
        base: &BaseModel,
        input: &TrainingInput,
        observe: &mut dyn FnMut(usize, usize) -> Flow,
    ) -> Result<Self> {
        let recipe = &input.recipe;
        let canvas = Canvas { resolution: base.resolution(), factor: base.vae.factor() };
        let tokens = input.modifier_tokens();
        let plan: Vec<Vec<Planned>> = input
            .concepts
            .iter()
            .enumerate()
            .map(|(index, concept)| plan_concept(recipe, input.seed, index, concept))
            .collect();
        let total = plan.iter().map(Vec::len).sum();
        let mut done = 0;
        let mut concepts = Vec::new();
        for (concept, planned) in input.concepts.iter().zip(&plan) {
            let mut data = ConceptData { instances: Vec::new(), class_images: Vec::new() };
            for chunk in planned.chunks(ENCODE_BATCH) {
                let prepared: Vec<PreparedImage> = chunk
                    .par_iter()
                    .map(|planned| planned.prepare(recipe, input.seed, concept, canvas))
                    .collect::<Result<_>>()?;
                for ((planned, prepared), (mean, std)) in
                    chunk.iter().zip(&prepared).zip(posteriors(base, &prepared, canvas)?)
                {
                    let captions = planned.captions(recipe, concept, &prepared.caption_prefix);
                    let captions = captions
                        .iter()
                        .map(|caption| token_ids(base, caption, &tokens, planned))
                        .collect::<Result<_>>()?;
                    let encoded = Encoded { mean, std, mask: prepared.mask.clone(), captions };
                    match planned {
                        Planned::Instance { .. } => data.instances.push(encoded),
                        Planned::Class { .. } => data.class_images.push(encoded),
                    }
                }
                done += chunk.len();
                if observe(done, total) == Flow::Stop {
                    return Err(EngineError::Stopped);
                }
            }
            concepts.push(data);
        }
        let side = canvas.resolution / canvas.factor;
        let latent_shape = [base.vae.config().latent_channels, side, side];
        Ok(Self { concepts, latent_shape, scaling_factor: base.vae.scaling_factor() as f32 })
    }

    /// The batch of one step: instance images, then class images, both taken from the concepts in turn.
    ///
    /// An element depends on the seed, the step and its place in the batch alone.
    pub(crate) fn batch(
        &self,
        base: &BaseModel,
        recipe: &TrainingRecipe,
        seed: u64,
        step: usize,
    ) -> Result<Batch> {
        let with_class_images =
            self.concepts.iter().all(|concept| !concept.class_images.is_empty());
        let class_size = if with_class_images { recipe.class_batch_size } else { 0 };
        let elements = recipe.instance_batch_size + class_size;
        let [channels, height, width] = self.latent_shape;
        let size = channels * height * width;

        let mut latents = vec![0.0; elements * size];
        let mut noise = vec![0.0; elements * size];
        let element_of = |(element, (latent, noise)): (usize, (&mut [f32], &mut [f32]))| {
            let random = |purpose| Random::new(seed, purpose, step as u64, element as u64);
            let is_class = element >= recipe.instance_batch_size;
            let turn = if is_class { element - recipe.instance_batch_size } else { element };
            let concept =
                &self.concepts[(step * recipe.instance_batch_size + turn) % self.concepts.len()];
            let pool = if is_class { &concept.class_images } else { &concept.instances };
            let mut order = random(Purpose::DataOrder);
            let image = &pool[order.below(pool.len())];
            let caption = &image.captions[order.below(image.captions.len())];

            random(Purpose::Posterior).normals(latent);
            for ((value, mean), std) in latent.iter_mut().zip(&image.mean).zip(&image.std) {
                *value = (mean + std * *value) * self.scaling_factor;
            }
            random(Purpose::Noise).normals(noise);
            let timestep = random(Purpose::Timestep).below(base.scheduler.num_train_timesteps);
            (image, caption, timestep as u32)
        };
        let places = latents.par_chunks_exact_mut(size).zip(noise.par_chunks_exact_mut(size));
        let chosen: Vec<(&Encoded, &Vec<u32>, u32)> = places.enumerate().map(element_of).collect();
        let mask = chosen.iter().flat_map(|(image, _, _)| image.mask.iter().copied()).collect();
        let shape = (elements, channels, height, width);
        Ok(Batch {
            latents: Tensor::from_vec(latents, shape, &base.device)?,
            noise: Tensor::from_vec(noise, shape, &base.device)?,
            timesteps: chosen.iter().map(|(_, _, timestep)| *timestep).collect(),
            input_ids: chosen.iter().map(|(_, caption, _)| (*caption).clone()).collect(),
            mask: Tensor::from_vec(mask, (elements, 1, height, width), &base.device)?,
            is_class_image: (0..elements)
                .map(|element| element >= recipe.instance_batch_size)
                .collect(),
        })
    }
}

/// One image to encode, by its place in the concept.
enum Planned {
    Instance { image: usize, draw: u64 },
    Class { image: usize, flip: bool },
}

impl Planned {
    fn prepare(
        &self,
        recipe: &TrainingRecipe,
        seed: u64,
        concept: &TrainingConcept,
        canvas: Canvas,
    ) -> Result<PreparedImage> {
        Ok(match *self {
            Self::Instance { image, draw } => {
                let mut random = Random::new(seed, Purpose::Augmentation, image as u64, draw);
                let subject = concept.guides.get(image).and_then(|guide| guide.mask.as_ref());
                augment_instance(&concept.images[image], subject, canvas, recipe, &mut random)
            }
            Self::Class { image, flip } => {
                prepare_class_image(&concept.class_images[image].image.decode()?, canvas, flip)
            }
        })
    }

    fn captions(
        &self,
        recipe: &TrainingRecipe,
        concept: &TrainingConcept,
        prefix: &str,
    ) -> Vec<String> {
        match *self {
            Self::Instance { image, .. } => {
                let guide = concept.guides.get(image);
                if let Some(caption) = guide.and_then(|guide| guide.caption.as_ref()) {
                    return vec![format!("{prefix}{caption}")];
                }
                let name = concept.words.in_prompt();
                recipe
                    .instance_templates
                    .iter()
                    .map(|t| format!("{prefix}{}", t.replace("{}", &name)))
                    .collect()
            }
            Self::Class { image, .. } => vec![concept.class_images[image].caption.clone()],
        }
    }
}

/// Which images of a concept are encoded: many augmentations of each photo, each class image and its mirror image.
fn plan_concept(
    recipe: &TrainingRecipe,
    seed: u64,
    index: usize,
    concept: &TrainingConcept,
) -> Vec<Planned> {
    let draws = recipe.max_train_steps * recipe.instance_batch_size;
    let pool = draws.min(AUGMENTATIONS_PER_IMAGE * concept.images.len()).max(concept.images.len());
    let instances = (0..pool).map(|i| {
        // Concepts of a joint training have random numbers of their own.
        let draw = ((index as u64) << 32) + (i / concept.images.len()) as u64;
        Planned::Instance { image: i % concept.images.len(), draw }
    });
    let mut class_images: Vec<usize> = (0..concept.class_images.len()).collect();
    if recipe.class_batch_size == 0 {
        class_images.clear();
    }
    // A random choice of the folder, the same for the same seed.
    let mut random = Random::new(seed, Purpose::DataOrder, u64::MAX, index as u64);
    for i in 0..class_images.len().min(recipe.num_class_images) {
        let j = i + random.below(class_images.len() - i);
        class_images.swap(i, j);
    }
    class_images.truncate(recipe.num_class_images);
    let flips: &[bool] = if recipe.horizontal_flip { &[false, true] } else { &[false] };
    let class_images = class_images
        .into_iter()
        .flat_map(|image| flips.iter().map(move |&flip| Planned::Class { image, flip }));
    instances.chain(class_images).collect()
}

/// Mean and standard deviation of each image's latent, flat.
fn posteriors(
    base: &BaseModel,
    images: &[PreparedImage],
    canvas: Canvas,
) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
    let side = canvas.resolution;
    let pixels: Vec<f32> = images.iter().flat_map(|image| image.pixels.iter().copied()).collect();
    let posterior =
        base.vae.encode(&Tensor::from_vec(pixels, (images.len(), 3, side, side), &base.device)?)?;
    let flat = |tensor: &Tensor| {
        tensor.to_dtype(candle_core::DType::F32)?.flatten_from(1)?.to_vec2::<f32>()
    };
    Ok(flat(&posterior.mean)?.into_iter().zip(flat(&posterior.std)?).collect())
}

fn token_ids(
    base: &BaseModel,
    caption: &str,
    tokens: &[&str],
    planned: &Planned,
) -> Result<Vec<u32>> {
    let encoded = base.prompt_encoder.tokenize(caption, tokens)?;
    let limit = base.prompt_encoder.max_length();
    match planned {
        // A caption from the web is cut, as in the reference implementations; one that we make must be whole.
        Planned::Instance { .. } if encoded.length > limit => {
            Err(EngineError::InvalidInput(format!(
                "the caption `{caption}` has {} tokens, the model takes {limit}: use a shorter class noun",
                encoded.length
            )))
        }
        Planned::Instance { .. } | Planned::Class { .. } => Ok(encoded.ids),
    }
}
