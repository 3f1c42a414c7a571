//! Cases of kinds `clip_pixel_values`, `clip_image_features`, `clip_text_features` and `clip_logits`.

use anyhow::{Context, Result, anyhow};
use candle_core::Tensor;
use image::RgbImage;
use vstar::engine::clip::{ClipImageProcessor, ClipImageProcessorConfig};

use super::{Case, Measured};

/// The images that a case names, `(height, width, 3)` bytes each.
fn images(case: &Case<'_>) -> Result<Vec<RgbImage>> {
    let names = case.json["images"].as_array().context("`images` is not a list")?;
    let image = |name: &serde_json::Value| {
        let tensor = case.model.tensor(name.as_str().context("an image has no name")?)?;
        let (height, width, _) = tensor.dims3()?;
        RgbImage::from_raw(width as u32, height as u32, tensor.flatten_all()?.to_vec1()?)
            .context("an image has not the size of its shape")
    };
    names.iter().map(image).collect()
}

fn texts<'a>(case: &'a Case<'_>) -> Result<Vec<&'a str>> {
    let texts = case.json["texts"].as_array().context("`texts` is not a list")?;
    texts.iter().map(|text| text.as_str().context("a text is no string")).collect()
}

fn image_features_of(case: &Case<'_>) -> Result<Tensor> {
    Ok(case.model.clip()?.image_features(&images(case)?)?)
}

/// With settings of the case's own, or those of the folder.
pub(crate) fn pixel_values(case: &Case<'_>) -> Result<Vec<Measured>> {
    let config = match case.json.get("preprocessor_config") {
        Some(config) => serde_json::from_value(config.clone())?,
        None => {
            let path = case.model.folder().join("preprocessor_config.json");
            match path.is_file() {
                true => serde_json::from_slice(&std::fs::read(path)?)?,
                false => ClipImageProcessorConfig::default(),
            }
        }
    };
    let image_size = case.tensor("pixel_values")?.dim(2)?;

    let processor = ClipImageProcessor::new(config, image_size).map_err(|error| anyhow!(error))?;
    let pixel_values = processor.preprocess(&images(case)?)?;

    Ok(vec![case.compare("pixel_values", &pixel_values)?])
}

pub(crate) fn image_features(case: &Case<'_>) -> Result<Vec<Measured>> {
    Ok(vec![case.compare("image_features", &image_features_of(case)?)?])
}

/// The ids too: the error is the number of positions that differ.
pub(crate) fn text_features(case: &Case<'_>) -> Result<Vec<Measured>> {
    let (clip, texts) = (case.model.clip()?, texts(case)?);
    let recorded = case.ids("input_ids")?;

    let mut differing = 0;
    for (text, recorded) in texts.iter().zip(&recorded) {
        let ids = clip.tokenize(text)?.ids;
        differing += ids.iter().zip(recorded).filter(|(a, b)| a != b).count()
            + ids.len().abs_diff(recorded.len());
    }
    let ids = Measured { what: "input_ids".to_owned(), error: differing as f64, tolerance: 0.0 };

    Ok(vec![ids, case.compare("text_features", &clip.text_features(&texts)?)?])
}

pub(crate) fn logits(case: &Case<'_>) -> Result<Vec<Measured>> {
    let clip = case.model.clip()?;
    let text_features = clip.text_features(&texts(case)?)?;

    let logits = clip.logits_per_image(&image_features_of(case)?, &text_features)?;

    Ok(vec![case.compare("logits_per_image", &logits)?])
}
