//! The door for frontends that speak OpenAI's images API: the same samples, in that API's words.
//!
//! Only the form differs. A prompt names concepts by their modifier tokens as everywhere, keys are the same keys, and a sample
//! that is asked for here is listed at `/v1/samples`. A client waits for its images; if it hangs up, the sample is canceled, unless the
//! request has an `Idempotency-Key`, with which it may be sent again.

mod edit;
mod error;
mod generation;
mod model;

use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use data_encoding::BASE64;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ApiError;
use super::image::content_path;
use crate::app::idempotency::is_keyed;
use crate::app::job::Sample;
use crate::app::queue::JobOptions;
use crate::app::sample::{NewSample, PromptedSample, SampleOptions};
use crate::app::{App, Caller, Precondition};
use crate::domain::code::Code;
use crate::domain::delta_use::ConceptUse;
use crate::domain::id::{ImageId, SampleId};
use crate::domain::image::Image;
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::job::schedule::Schedule;
use crate::domain::job::{Job, JobStatus};
use crate::domain::sample::SampleTask;
use crate::domain::scheduler::SchedulerName;
use crate::domain::warning::Warning;

pub(crate) use self::edit::{__path_edit_images, edit_images};
pub(crate) use self::error::write_openai_error;
pub(crate) use self::generation::{__path_generate_images, generate_images};
pub(crate) use self::model::{__path_get_model, __path_list_models, get_model, list_models};

/// How long a sample may take, queue included: as long as that API's own clients wait.
const WITHIN: Duration = Duration::from_secs(600);

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

/// What both operations take.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImagesRequest {
    /// What to generate. A modifier token in the prompt brings in its concept: `photo of a <rex> dog on the beach`.
    #[schema(examples("photo of a <rex> dog on the beach"))]
    prompt: String,
    /// The base model's name, a delta's id, or a concept's id or handle: `GET /openai/v1/models` lists them. Defaults to the
    /// base model. Tokens in the prompt bring in their concepts whatever the model is.
    model: Option<String>,
    /// The number of images, from 1 to 16. Defaults to 1.
    #[schema(minimum = 1, maximum = 16)]
    n: Option<usize>,
    /// `WIDTHxHEIGHT` in pixels, or `auto` for the base model's own size. Defaults to `auto`.
    #[schema(examples("512x512"))]
    size: Option<String>,
    /// Defaults to `b64_json`.
    response_format: Option<ResponseFormat>,
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
    noise_strength: Option<f64>,
}

/// Images, in the form of OpenAI's API.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImagesBody {
    /// When they were made, in seconds since 1970.
    created: i64,
    /// The images, in the order of their indices.
    data: Vec<ImageData>,
    /// Always `png`.
    #[schema(value_type = String)]
    output_format: &'static str,
    /// Width and height in pixels.
    #[schema(examples("512x512"))]
    size: String,
    /// Not in OpenAI's API. The sample at `/v1/samples/{sample_id}`.
    sample: SampleId,
    /// Not in OpenAI's API. What the images may suffer from.
    warnings: Vec<Warning>,
}

/// One image: its bytes or its URL.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ImageData {
    /// The PNG in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    b64_json: Option<String>,
    /// The absolute URL of the PNG. Whoever has it can read the image, without a key, for 60 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl ImagesRequest {
    /// Refuses what other services of this API do and this one does not.
    fn check(&self) -> Result<(), Invalid> {
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
    fn into_sample(
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

/// Draws a sample and waits for its images.
async fn draw(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    format: ResponseFormat,
    new: NewSample,
) -> Result<ImagesBody, ApiError> {
    let schedule =
        Schedule { finish_within_seconds: Some(WITHIN.as_secs()), ..Schedule::default() };
    let options = JobOptions { schedule, ..JobOptions::default() };
    let queued = app.start_sample(caller, new, options).await?;
    let guard = CancelOnDrop { app: app.clone(), caller: *caller, sample: Some(queued.id()) };
    // Whoever sends a key may ask for the images again.
    let guard = match is_keyed() {
        true => {
            guard.disarm();
            None
        }
        false => Some(guard),
    };
    let sample = wait_for(app, caller, queued).await?; // the guard cancels one that has not ended
    if let Some(guard) = guard {
        guard.disarm();
    }
    answer(app, caller, headers, format, sample).await
}

/// The answer to a request that is sent again with its key: the images of the sample that it has made.
pub(super) async fn drawn_before(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    format: ResponseFormat,
    made: &str,
) -> Result<Response, ApiError> {
    let sample_id: SampleId = made.parse().map_err(|_| {
        ApiError::NotFound("the request has made no images: send it with another key".to_owned())
    })?;
    let sample = app.job::<SampleTask>(caller, sample_id).await?;
    let sample = wait_for(app, caller, sample).await?;
    Ok(axum::Json(answer(app, caller, headers, format, sample).await?).into_response())
}

/// Waits for a sample to end.
async fn wait_for(app: &App, caller: &Caller, sample: Sample) -> Result<Sample, ApiError> {
    // A little longer, so that a deadline that is missed is told as the job tells it.
    let sample = app.wait(caller, sample, WITHIN + Duration::from_secs(10)).await?;
    if sample.job.status().is_terminal() { Ok(sample) } else { Err(ApiError::ShuttingDown) }
}

async fn answer(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    format: ResponseFormat,
    sample: Sample,
) -> Result<ImagesBody, ApiError> {
    if sample.job.status() != JobStatus::Succeeded {
        return Err(not_made(sample.job));
    }
    let mut data = Vec::with_capacity(sample.outcome.len());
    match format {
        ResponseFormat::B64Json => {
            for image in &sample.outcome {
                let png = read(app, image).await?;
                data.push(ImageData { b64_json: Some(BASE64.encode(&png)), url: None });
            }
        }
        ResponseFormat::Url => {
            let images: Vec<ImageId> = sample.outcome.iter().map(|image| image.image_id).collect();
            let tokens = app.image_tokens(caller, &images).await?.unwrap_or_default();
            for (at, image) in images.into_iter().enumerate() {
                let url = absolute_url(headers, image, tokens.get(at).map(String::as_str));
                data.push(ImageData { b64_json: None, url: Some(url) });
            }
        }
    }
    let settings = &sample.job.task.settings;
    Ok(ImagesBody {
        created: sample.job.finished_at.unwrap_or_else(Utc::now).timestamp(),
        data,
        output_format: "png",
        size: format!("{}x{}", settings.width, settings.height),
        sample: sample.job.job_id.into(),
        warnings: sample.job.warnings,
    })
}

fn not_made(job: Job<SampleTask>) -> ApiError {
    match job.error {
        Some(failure) => ApiError::NotMade { code: failure.code, detail: failure.detail },
        None => {
            ApiError::NotMade { code: Code::Stopped, detail: "the sample was canceled".to_owned() }
        }
    }
}

async fn read(app: &App, image: &Image) -> Result<Vec<u8>, ApiError> {
    let file = app.image_file(image);
    let size = file.size_bytes();
    let chunks = file.open(0..size).await?;
    let png = chunks.try_fold(Vec::new(), async |mut png, chunk| {
        png.extend_from_slice(&chunk);
        Ok(png)
    });
    png.await.map_err(|error| ApiError::Internal(error.into()))
}

/// The URL of an image for this client: by the host that it asked.
///
/// - `token`: with which it can be read without a key
fn absolute_url(headers: &HeaderMap, image_id: ImageId, token: Option<&str>) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = match text("x-forwarded-proto") {
        Some("https") => "https",
        Some(_) | None => "http",
    };
    let host = text(header::HOST.as_str()).unwrap_or("localhost");
    let query = token.map_or_else(String::new, |token| format!("?token={token}"));
    format!("{scheme}://{host}{}{query}", content_path(image_id))
}

/// Cancels a sample that nobody waits for any more.
struct CancelOnDrop {
    app: App,
    caller: Caller,
    sample: Option<SampleId>,
}

impl CancelOnDrop {
    fn disarm(mut self) {
        self.sample = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(sample) = self.sample.take() else { return };
        let (app, caller) = (self.app.clone(), self.caller);
        tokio::spawn(async move {
            if let Err(error) = app.cancel::<SampleTask>(&caller, sample, &Precondition::Any).await
            {
                tracing::warn!(%error, %sample, "a sample whose client hung up goes on");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_size_is_two_numbers_or_auto() {
        assert_eq!(parse_size("512x768").unwrap(), Some((512, 768)));
        assert_eq!(parse_size("auto").unwrap(), None);
        for text in ["", "512", "512x", "x512", "0x0", "512 x 512", "99999999999999999999x1"] {
            assert_eq!(parse_size(text).unwrap_err().pointer, "/size", "{text}");
        }
    }

    #[test]
    fn a_url_is_that_of_the_host_which_was_asked() {
        let id = ImageId::generate();
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("images.example.org:8443"));
        let path = format!("images.example.org:8443/v1/images/{id}/content");

        assert_eq!(absolute_url(&headers, id, None), format!("http://{path}"));
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        assert_eq!(absolute_url(&headers, id, Some("t")), format!("https://{path}?token=t"));
    }
}
