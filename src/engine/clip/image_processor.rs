//! Images as CLIP's vision tower takes them.

use std::{ops::Range, path::Path};

use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::resize::{Filter, resize};
use crate::engine::{
    error::{EngineError, Result},
    weights::read_json,
};

/// Mean and standard deviation of red, green and blue among OpenAI's training images.
const OPENAI_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const OPENAI_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Names of the class that this is, by age. Other image processors read the same fields otherwise.
const KNOWN_TYPES: [&str; 4] = [
    "CLIPFeatureExtractor",
    "CLIPImageProcessor",
    "CLIPImageProcessorFast",
    "CLIPImageProcessorPil",
];

/// `preprocessor_config.json`; what is absent is as OpenAI has it, at the model's image size.
///
/// `size` is a number or `{"shortest_edge": n}`, either for the shorter side of the resized image, or
/// `{"height": n, "width": n}`, for both. `crop_size` is a number or `{"height": n, "width": n}`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ClipImageProcessorConfig {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    do_resize: Option<bool>,
    size: Option<Value>,
    /// Pillow's number of the filter: 2 is bilinear, 3 bicubic.
    resample: Option<u64>,
    do_center_crop: Option<bool>,
    crop_size: Option<Value>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

/// Resizes, crops and normalises an image, as transformers' `CLIPImageProcessor` with Pillow does it.
///
/// `(factor · x − mean) / std` of each pixel after both. The long side of a resized image is rounded down; of an odd
/// margin, the smaller half is cut at the left and the top; an image that is smaller than the crop is surrounded by black.
pub struct ClipImageProcessor {
    size: Option<(Size, Filter)>,
    crop: Option<Sides>,
    /// What each of a channel's 256 values becomes.
    levels: [Vec<f32>; 3],
    image_size: u32,
}

/// Width and height in pixels.
type Sides = (u32, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    ShortestEdge(u32),
    Exact(Sides),
}

impl ClipImageProcessor {
    /// Reads `preprocessor_config.json`, or takes the defaults if there is no such file.
    ///
    /// - `image_size`: pixels per side that the vision tower takes
    ///
    /// # Errors
    /// [`EngineError::ModelFile`] for settings that are not built here, and for those that make images of another size.
    pub(super) fn load(path: &Path, image_size: usize) -> Result<Self> {
        let config = if path.is_file() { read_json(path)? } else { Default::default() };
        Self::new(config, image_size)
            .map_err(|reason| EngineError::ModelFile { path: path.display().to_string(), reason })
    }

    /// Takes the settings, or says why not.
    ///
    /// - `image_size`: pixels per side that the vision tower takes
    pub fn new(config: ClipImageProcessorConfig, image_size: usize) -> Result<Self, String> {
        let side = u32::try_from(image_size)
            .map_err(|_| format!("the model takes images of {image_size} pixels per side"))?;
        let types = config.image_processor_type.iter().chain(&config.feature_extractor_type);
        for name in types {
            if !KNOWN_TYPES.contains(&name.as_str()) {
                return Err(format!("`{name}` is not supported, only CLIPImageProcessor is"));
            }
        }
        let size = match config.do_resize.unwrap_or(true) {
            true => Some((
                config.size.as_ref().map_or(Ok(Size::ShortestEdge(side)), parse_size)?,
                filter(config.resample)?,
            )),
            false => None,
        };
        let crop = match config.do_center_crop.unwrap_or(true) {
            true => Some(config.crop_size.as_ref().map_or(Ok((side, side)), parse_crop_size)?),
            false => None,
        };
        let processor = Self { size, crop, levels: levels(&config)?, image_size: side };
        processor.check()?;
        Ok(processor)
    }

    /// `(images, 3, image_size, image_size)` in f32 on the CPU, channels in the order red, green, blue.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for an image that does not come out in the model's size, which can happen only
    /// where the settings do not crop.
    pub fn preprocess(&self, images: &[RgbImage]) -> Result<Tensor> {
        let side = self.image_size as usize;
        let one = |image: &RgbImage| -> Result<Vec<f32>> { Ok(self.planes(&self.fit(image)?)) };
        let pixels = images.par_iter().map(one).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::from_vec(pixels.concat(), (images.len(), 3, side, side), &Device::Cpu)?)
    }

    /// Settings that make images of another size than the model takes, whatever the image.
    fn check(&self) -> Result<(), String> {
        let (field, (width, height)) = match (self.crop, self.size) {
            (Some(sides), _) => ("crop_size", sides),
            (None, Some((Size::Exact(sides), _))) => ("size", sides),
            (None, Some((Size::ShortestEdge(edge), _))) => ("size", (edge, edge)),
            (None, None) => return Ok(()),
        };
        let side = self.image_size;
        if (width, height) == (side, side) {
            return Ok(());
        }
        Err(format!("`{field}` is {width}×{height}, the model takes images of {side}×{side}"))
    }

    /// Refuses an image of this size if the settings do not bring it to the model's.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`]
    pub fn check_image(&self, width: u32, height: u32) -> Result<()> {
        self.resized((width, height)).map(drop)
    }

    /// The size that an image is resized to, before it is cropped to the model's.
    fn resized(&self, (width, height): Sides) -> Result<Sides> {
        if width == 0 || height == 0 {
            return Err(EngineError::InvalidInput(format!(
                "an image of {width}×{height} is empty"
            )));
        }
        let resized = match self.size {
            Some((Size::ShortestEdge(edge), _)) => with_shortest_edge((width, height), edge),
            Some((Size::Exact(sides), _)) => sides,
            None => (width, height),
        };
        let (sides, side) = (self.crop.unwrap_or(resized), self.image_size);
        if sides != (side, side) {
            return Err(EngineError::InvalidInput(format!(
                "an image of {width}×{height} becomes one of {}×{} without `do_center_crop`, the model takes {side}×{side}",
                sides.0, sides.1
            )));
        }
        Ok(resized)
    }

    /// Resizes and crops.
    fn fit(&self, image: &RgbImage) -> Result<RgbImage> {
        let (resized, side) = (self.resized(image.dimensions())?, self.image_size);
        let (columns, left) = centre(resized.0, side);
        let (rows, top) = centre(resized.1, side);
        // Without resizing any filter leaves the pixels as they are.
        let filter = self.size.map_or(Filter::Bicubic, |(_, filter)| filter);
        let seen = resize(image, resized, columns, rows, filter);
        if seen.dimensions() == (side, side) {
            return Ok(seen);
        }
        let mut padded = RgbImage::from_pixel(side, side, Rgb([0; 3]));
        image::imageops::replace(&mut padded, &seen, left.into(), top.into());
        Ok(padded)
    }

    /// `(3, height, width)`.
    fn planes(&self, image: &RgbImage) -> Vec<f32> {
        let plane = |(channel, levels): (usize, &Vec<f32>)| {
            image.pixels().map(move |pixel| levels[usize::from(pixel[channel])]).collect::<Vec<_>>()
        };
        self.levels.iter().enumerate().flat_map(plane).collect()
    }
}

/// The ratio is kept, the long side rounded down.
fn with_shortest_edge((width, height): Sides, edge: u32) -> Sides {
    let long =
        |long: u32, short: u32| (u64::from(edge) * u64::from(long) / u64::from(short)) as u32;
    if width <= height { (edge, long(height, width)) } else { (long(width, height), edge) }
}

/// The middle `part` of `whole` pixels: which of them are seen, and where they begin in the part.
fn centre(whole: u32, part: u32) -> (Range<u32>, u32) {
    if whole >= part {
        let start = (whole - part) / 2;
        (start..start + part, 0)
    } else {
        (0..whole, (part - whole).div_ceil(2))
    }
}

fn filter(resample: Option<u64>) -> Result<Filter, String> {
    match resample {
        Some(2) => Ok(Filter::Bilinear),
        Some(3) | None => Ok(Filter::Bicubic),
        Some(other) => {
            Err(format!("`resample` is {other}, only 2 (bilinear) and 3 (bicubic) are supported"))
        }
    }
}

fn parse_size(value: &Value) -> Result<Size, String> {
    // With a `longest_edge` beside it, it would mean something else.
    let edge = value.get("shortest_edge").filter(|_| value.get("longest_edge").is_none());
    match (pixels(edge.unwrap_or(value)), sides(value)) {
        (Some(edge), _) => Ok(Size::ShortestEdge(edge)),
        (None, Some(sides)) => Ok(Size::Exact(sides)),
        (None, None) => Err(format!(
            "`size` is {value}, only a number of pixels, a `shortest_edge`, and `height` with `width` are supported"
        )),
    }
}

fn parse_crop_size(value: &Value) -> Result<Sides, String> {
    let square = pixels(value).map(|side| (side, side));
    square.or_else(|| sides(value)).ok_or_else(|| {
        format!(
            "`crop_size` is {value}, only a number of pixels and `height` with `width` are supported"
        )
    })
}

/// Of `{"height": n, "width": n}`, or of `[height, width]`.
fn sides(value: &Value) -> Option<Sides> {
    match value {
        Value::Array(sides) if sides.len() == 2 => Some((pixels(&sides[1])?, pixels(&sides[0])?)),
        value => Some((pixels(value.get("width")?)?, pixels(value.get("height")?)?)),
    }
}

fn pixels(value: &Value) -> Option<u32> {
    /// More would be a mistake, and would not fit in memory.
    const MOST: u64 = 1 << 14;
    value.as_u64().filter(|pixels| (1..=MOST).contains(pixels)).map(|pixels| pixels as u32)
}

/// What the 256 values of each channel become, rounded as transformers does it: in f32 after each step.
fn levels(config: &ClipImageProcessorConfig) -> Result<[Vec<f32>; 3], String> {
    let factor = match config.do_rescale.unwrap_or(true) {
        true => config.rescale_factor.unwrap_or(1.0 / 255.0),
        false => 1.0,
    };
    let (mean, std) = match config.do_normalize.unwrap_or(true) {
        true => (config.image_mean.unwrap_or(OPENAI_MEAN), config.image_std.unwrap_or(OPENAI_STD)),
        false => ([0.0; 3], [1.0; 3]),
    };
    if !std.iter().all(|std| *std > 0.0) {
        return Err(format!("`image_std` is {std:?}, it must be positive"));
    }
    let level = |value: u8, channel: usize| {
        let scaled = (f64::from(value) * factor) as f32;
        (scaled - mean[channel]) / std[channel]
    };
    Ok(std::array::from_fn(|channel| (0..=u8::MAX).map(|value| level(value, channel)).collect()))
}
