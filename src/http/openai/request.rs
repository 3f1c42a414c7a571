//! What both operations that draw take.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::sample::{NewSample, PromptedSample, SampleOptions};
use crate::domain::code::Code;
use crate::domain::delta_use::ConceptUse;
use crate::domain::id::ImageId;
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::scheduler::SchedulerName;

/// The longest name of a user.
const MAX_USER_BYTES: usize = 512;

/// How an image is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ResponseFormat {
    /// The PNG in base64.
    #[default]
    B64Json,
    /// An absolute URL of the PNG. It needs no key, and is good for 60 minutes; after that, the image is at `/v1/images/{image_id}/content`
    /// for whoever has a key.
    Url,
}

/// The format that a request with a key asks for. A form is read by its handler, which tells it to whoever looks for an earlier answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct WantedFormat(Arc<OnceLock<ResponseFormat>>);

impl WantedFormat {
    /// What a request asks for is told once.
    pub(crate) fn tell(&self, format: Option<ResponseFormat>) {
        let _ = self.0.set(format.unwrap_or_default());
    }

    /// The default if nothing was told, as of a request that could not be read.
    pub(crate) fn get(&self) -> ResponseFormat {
        self.0.get().copied().unwrap_or_default()
    }
}

/// What both operations take.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImagesRequest {
    /// What to generate. A modifier token in the prompt brings in its concept: `photo of a <rex> dog on the beach`.
    #[schema(examples("photo of a <rex> dog on the beach"))]
    prompt: String,
    /// The base model's name, a delta's id, or a concept's id or handle: `GET /openai/v1/models` lists them. Defaults to the
    /// base model. Tokens in the prompt bring in their concepts whatever the model is.
    pub(super) model: Option<String>,
    /// The number of images, from 1 to 16. Defaults to 1.
    #[schema(minimum = 1, maximum = 16)]
    n: Option<usize>,
    /// `WIDTHxHEIGHT` in pixels, or `auto` for the base model's own size. Defaults to `auto`.
    #[schema(examples("512x512"))]
    size: Option<String>,
    /// Defaults to `b64_json`.
    pub(super) response_format: Option<ResponseFormat>,
    /// Only `png`, which is the default.
    output_format: Option<String>,
    /// Accepted and without effect, from 0 to 100: PNG has no lossy compression.
    #[schema(maximum = 100)]
    output_compression: Option<u32>,
    /// Accepted and without effect: `standard`, `hd`, `low`, `medium`, `high`, `xhigh`, `max` or `auto`.
    quality: Option<String>,
    /// Accepted and without effect: `low`, `medium` or `high`.
    complexity: Option<String>,
    /// Accepted and without effect: `vivid` or `natural`.
    style: Option<String>,
    /// `opaque` or `auto`: images have no transparency.
    background: Option<String>,
    /// Accepted and without effect: `auto` or `low`.
    moderation: Option<String>,
    /// Accepted and without effect: `low` or `high`.
    input_fidelity: Option<String>,
    /// Accepted and without effect. At most 512 bytes.
    user: Option<String>,
    /// Accepted and without effect. At most 512 bytes.
    safety_identifier: Option<String>,
    /// Only false: images are not streamed here.
    stream: Option<bool>,
    /// Only 0: images are not streamed here.
    partial_images: Option<u32>,
    /// Not in OpenAI's API. What the images should not show.
    negative_prompt: Option<String>,
    /// Not in OpenAI's API. Random seed, from 0 to 2⁵³ − 1.
    #[schema(maximum = 9007199254740991_u64)]
    seed: Option<u64>,
    /// Not in OpenAI's API. The number of denoising steps.
    #[schema(minimum = 1)]
    num_inference_steps: Option<usize>,
    /// Not in OpenAI's API. Weight of the prompt against the negative prompt, from 0 to 100.
    #[schema(minimum = 0, maximum = 100)]
    guidance_scale: Option<f64>,
    /// Not in OpenAI's API. The scheduler.
    scheduler: Option<SchedulerName>,
    /// Not in OpenAI's API. How much noise is added to the image that is edited, above 0 and up to 1. Edits only. Defaults to 0.8.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub(super) noise_strength: Option<f64>,
}

impl ImagesRequest {
    /// Refuses what other services of this API do and this one does not.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let mut checks = Checks::default();
        for (value, known, pointer) in [
            (&self.output_format, &["png"][..], "/output_format"),
            (
                &self.quality,
                &["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto"],
                "/quality",
            ),
            (&self.complexity, &["low", "medium", "high"], "/complexity"),
            (&self.style, &["vivid", "natural"], "/style"),
            (&self.background, &["opaque", "auto"], "/background"),
            (&self.moderation, &["auto", "low"], "/moderation"),
            (&self.input_fidelity, &["low", "high"], "/input_fidelity"),
        ] {
            let Some(value) = value else { continue };
            checks.require(known.contains(&value.as_str()), pointer, Code::InvalidValue, || {
                let value: String = value.chars().take(100).collect();
                format!("`{value}` is not supported here: one of {}", known.join(", "))
            });
        }
        if let Some(quality) = self.output_compression {
            checks.in_range(quality, 0..=100, "/output_compression");
        }
        for (name, pointer) in
            [(&self.user, "/user"), (&self.safety_identifier, "/safety_identifier")]
        {
            let bytes = name.as_deref().map_or(0, str::len);
            checks.in_range(bytes, 0..=MAX_USER_BYTES, pointer);
        }
        if let Some(Err(error)) = self.size.as_deref().map(parse_size) {
            checks.push(error);
        }
        let streams = self.stream == Some(true) || self.partial_images.is_some_and(|n| n > 0);
        checks.require(!streams, "/stream", Code::NotApplicable, || {
            "images are not streamed here: leave it out, or follow the events of a sample at /v1/samples".to_owned()
        });
        checks.finish()
    }

    /// The sample that the request means.
    ///
    /// - `model`: what the model brings in
    /// - `init_image`: the image that is edited
    pub(super) fn into_sample(
        self,
        model: Vec<ConceptUse>,
        init_image: Option<ImageId>,
    ) -> Result<NewSample, FieldError> {
        let size = self.size.as_deref().map(parse_size).transpose()?.flatten();
        Ok(NewSample::Prompt(Box::new(PromptedSample {
            prompt: Some(self.prompt),
            negative_prompt: self.negative_prompt,
            options: SampleOptions {
                n: self.n,
                seed: self.seed,
                num_inference_steps: self.num_inference_steps,
                guidance_scale: self.guidance_scale,
                scheduler: self.scheduler,
                width: size.map(|(width, _)| width),
                height: size.map(|(_, height)| height),
                ..SampleOptions::default()
            },
            init_image,
            noise_strength: self.noise_strength,
            concepts: model,
            merge: None,
            composition: None,
        })))
    }
}

/// `512x768`; `None` for `auto`.
fn parse_size(text: &str) -> Result<Option<(usize, usize)>, FieldError> {
    if text == "auto" {
        return Ok(None);
    }
    let sides = text.split_once('x').and_then(|(width, height)| {
        let side = |text: &str| text.parse().ok().filter(|side| (1..=1_000_000).contains(side));
        Some((side(width)?, side(height)?))
    });
    match sides {
        Some(sides) => Ok(Some(sides)),
        None => {
            let text: String = text.chars().take(100).collect();
            let detail = format!(
                "`{text}` is not a size: write WIDTHxHEIGHT in pixels, such as 512x512, or auto"
            );
            Err(FieldError::new("/size", Code::InvalidValue, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_two_numbers_or_auto() {
        assert_eq!(parse_size("512x768").unwrap(), Some((512, 768)));
        assert_eq!(parse_size("auto").unwrap(), None);
        for text in ["", "512", "512x", "x512", "0x0", "512 x 512", "99999999999999999999x1"] {
            assert_eq!(parse_size(text).unwrap_err().pointer, "/size", "{text}");
        }
    }
}
