//! A composition by regions: the base model lays an image out, then each concept's region is generated again with that
//! concept alone.

use std::sync::Arc;

use futures::future::try_join_all;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use image::RgbImage;
use image::imageops::{self, FilterType};

use super::Finished;
use super::generation::{Generation, start as generate};
use super::init_image::read_picture;
use crate::domain::composition::place::{PixelBox, Place};
use crate::domain::composition::{LayoutKind, Region, Regional, Span, UsedRegion};
use crate::domain::job::Phase;
use crate::domain::sample::SampleTask;
use crate::engine::{AttentionMaps, Crop, InitImage, encode_init, find_boxes, outline};
use crate::worker::batch::Generated;
use crate::worker::concepts::SampleConcepts;
use crate::worker::error::JobError;
use crate::worker::job::Job;
use crate::worker::job_steps::JobSteps;

/// What all images of a sample have in common.
struct Composer {
    job: Job,
    task: SampleTask,
    regional: Regional,
    /// Of each region.
    concepts: Vec<SampleConcepts>,
    /// The image that stays outside the regions, if the layout is not to replace it.
    kept: Option<RgbImage>,
    steps: JobSteps,
}

/// A layout that is there, and where it attended to the nouns.
struct Layout {
    index: usize,
    picture: RgbImage,
    attention: Option<AttentionMaps>,
}

/// Starts the layouts; each is composed as soon as it is there.
///
/// - `concepts`: of all deltas
pub(super) async fn start(
    job: &Job,
    task: &SampleTask,
    regional: &Regional,
    concepts: &SampleConcepts,
    init: Option<InitImage>,
) -> Result<BoxStream<'static, Result<Finished, JobError>>, JobError> {
    let n = task.settings.n;
    let layout = Generation {
        prompt: regional.layout.prompt.clone(),
        negative_prompt: regional.layout.negative_prompt.clone(),
        init,
        ..Generation::of(task)
    };
    let kept = match regional.layout.kind {
        LayoutKind::InitImage => read_picture(job, task).await?,
        LayoutKind::Scene | LayoutKind::Nouns => None,
    };
    let needs_layout = regional.draws_layout();
    let redraw_strength = regional.redraw.redraw_strength;
    let of_regions = JobSteps::of(task.settings.num_inference_steps, redraw_strength);
    let of_layout = if needs_layout { layout.steps_per_image() } else { 0 };
    let of_image = of_layout + regional.regions.len() * of_regions;
    let steps = JobSteps::new(Phase::Denoising, n * of_image);
    let of_region = |region: &Region| concepts.only(region.delta);
    let composer = Arc::new(Composer {
        job: job.clone(),
        task: task.clone(),
        regional: regional.clone(),
        concepts: regional.regions.iter().map(of_region).collect(),
        kept,
        steps: steps.clone(),
    });

    let layouts: BoxStream<'static, Result<Layout, JobError>> = match needs_layout {
        false => {
            let place = |index| Ok(Layout { index, picture: RgbImage::new(0, 0), attention: None });
            stream::iter((0..n).map(place)).boxed()
        }
        true => {
            let watched = watched(job, regional).await?;
            let of_layout = concepts.at_own_words(&regional.layout.own_words);
            let requests = layout.requests(task.settings.indices());
            let previews = task.settings.preview_every;
            let generated = generate(job, of_layout, requests, previews, watched, steps);
            let layout =
                |Generated { index, image, attention }| Layout { index, picture: image, attention };
            generated.map_ok(layout).boxed()
        }
    };
    let composed = layouts.map(move |layout| {
        let composer = composer.clone();
        async move { composer.compose(layout?).await }
    });
    Ok(composed.buffer_unordered(n).boxed())
}

/// The tokens whose attention is kept: the noun of each region that has no box.
async fn watched(job: &Job, regional: &Regional) -> Result<Vec<Vec<usize>>, JobError> {
    let prompt = regional.layout.prompt.clone();
    let searched = regional.regions.iter().filter(|region| region.place.is_none());
    let nouns: Vec<Span> = searched.filter_map(|region| region.noun).collect();
    let positions = job.context.device.run_quick(move |engine| {
        let encoder = &engine.base.prompt_encoder;
        nouns
            .iter()
            .map(|noun| encoder.positions(&prompt, noun.start..noun.end))
            .collect::<crate::engine::Result<Vec<_>>>()
    });
    Ok(positions.await??)
}

impl Composer {
    /// Generates the regions of one image again, all from its layout, and puts them into it in their order.
    async fn compose(&self, layout: Layout) -> Result<Finished, JobError> {
        let image_index = self.task.settings.first_index + layout.index;
        let mut picture = self.picture(layout.picture);
        let boxes = self.boxes(layout.attention.as_ref(), picture.dimensions());
        self.show(image_index, &picture, &boxes);
        let model = &self.job.context.model;
        let around = |region| {
            Crop::around(region, picture.dimensions(), model.native_size, model.size_multiple)
        };
        let crops: Vec<Crop> = boxes.iter().copied().map(around).collect();
        let starts = self.encode(&crops, &picture).await?;
        let regions = starts.into_iter().zip(&crops).enumerate();
        let redrawn =
            regions.map(|(region, (init, crop))| self.redraw(region, image_index, *crop, init));
        let redrawn = try_join_all(redrawn).await?;
        let laid_out = picture.clone();
        for (crop, redrawn) in crops.iter().zip(redrawn) {
            crop.paste(&redrawn, &laid_out, &mut picture);
        }
        let size = picture.dimensions();
        let used = |(region, place): (&Region, PixelBox)| UsedRegion {
            concept: region.concept.clone(),
            place: region.place.unwrap_or_else(|| Place::of_pixels(place, size)),
        };
        let regions = self.regional.regions.iter().zip(boxes).map(used).collect();
        Ok(Finished { index: layout.index, image: picture, regions })
    }

    /// What the regions are put into, at the size of the result.
    fn picture(&self, layout: RgbImage) -> RgbImage {
        let picture = self.kept.clone().unwrap_or(layout);
        match self.regional.redraw.enlarge as u32 {
            1 => picture,
            times => {
                let (width, height) = picture.dimensions();
                imageops::resize(&picture, times * width, times * height, FilterType::CatmullRom)
            }
        }
    }

    /// The box of each region: the request's, or where the layout attends to its noun.
    fn boxes(&self, attention: Option<&AttentionMaps>, size: (u32, u32)) -> Vec<PixelBox> {
        let margin = self.regional.redraw.margin;
        let found = attention.map(|maps| find_boxes(&maps.means(), maps.size(), margin, size));
        let mut found = found.into_iter().flatten();
        let regions = self.regional.regions.iter();
        regions
            .map(|region| match region.place {
                Some(place) => place.pixels(size),
                None => found.next().unwrap_or(PixelBox {
                    left: 0,
                    top: 0,
                    right: size.0,
                    bottom: size.1,
                }),
            })
            .collect()
    }

    /// Shows the layout with its boxes, if there are previews.
    fn show(&self, image_index: usize, picture: &RgbImage, boxes: &[PixelBox]) {
        if self.task.settings.preview_every.is_none() {
            return;
        }
        let mut preview = picture.clone();
        boxes.iter().for_each(|region| outline(&mut preview, *region));
        self.job.progress.show(image_index, self.task.settings.num_inference_steps, preview);
    }

    /// The latents that each region starts from, with the mask of what is generated.
    async fn encode(&self, crops: &[Crop], picture: &RgbImage) -> Result<Vec<InitImage>, JobError> {
        let parts: Vec<(Crop, RgbImage)> =
            crops.iter().map(|crop| (*crop, crop.of(picture))).collect();
        let noise_strength = self.regional.redraw.redraw_strength;
        let encoded = self.job.context.device.run_quick(move |engine| {
            let base = &engine.base;
            let encode = |(crop, part): &(Crop, RgbImage)| {
                let latents = encode_init(base, part, crop.width, crop.height)?;
                let mask = Some(crop.mask(base.vae.factor()).into());
                Ok(InitImage { latents, noise_strength, mask })
            };
            parts.iter().map(encode).collect::<crate::engine::Result<Vec<_>>>()
        });
        Ok(encoded.await??)
    }

    /// Generates one region of one image again.
    async fn redraw(
        &self,
        region: usize,
        image_index: usize,
        crop: Crop,
        init: InitImage,
    ) -> Result<RgbImage, JobError> {
        let Region { prompt, negative_prompt, .. } = &self.regional.regions[region];
        let generation = Generation {
            prompt: prompt.clone(),
            negative_prompt: negative_prompt.clone(),
            width: crop.width,
            height: crop.height,
            init: Some(init),
            ..Generation::of(&self.task)
        };
        let request = generation.request(noise_index(region, image_index));
        let concepts = self.concepts[region].clone();
        let mut generated =
            generate(&self.job, concepts, vec![request], None, Vec::new(), self.steps.clone());
        // If nothing was sent, the device thread is gone.
        let generated = generated.next().await.ok_or(JobError::EnginePanicked)??;
        Ok(generated.image)
    }
}

/// Which noise a region has: none that another region or another image of the seed has.
fn noise_index(region: usize, image_index: usize) -> u64 {
    ((region as u64 + 1) << 32) + image_index as u64
}
