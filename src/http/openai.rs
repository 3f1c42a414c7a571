//! The door for frontends that speak OpenAI's images API: the same samples, in that API's words.
//!
//! Only the form differs. A prompt names concepts by their modifier tokens as everywhere, keys are the same keys, and a sample
//! that is asked for here is listed at `/v1/samples`. A client waits for its images; if it hangs up, the sample is canceled, unless the
//! request has an `Idempotency-Key`, with which it may be sent again.

mod edit;
mod error;
mod generation;
mod model;
mod request;

use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use data_encoding::BASE64;
use futures::TryStreamExt;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::image::content_path;
use crate::app::idempotency::is_keyed;
use crate::app::job::Sample;
use crate::app::queue::JobOptions;
use crate::app::sample::NewSample;
use crate::app::{App, Caller, Precondition};
use crate::domain::code::Code;
use crate::domain::id::{ImageId, SampleId};
use crate::domain::image::Image;
use crate::domain::job::schedule::Schedule;
use crate::domain::job::{Job, JobStatus};
use crate::domain::sample::SampleTask;
use crate::domain::warning::Warning;

pub(crate) use self::edit::{__path_edit_images, edit_images};
pub(crate) use self::error::write_openai_error;
pub(crate) use self::generation::{__path_generate_images, generate_images};
pub(crate) use self::model::{__path_get_model, __path_list_models, get_model, list_models};
pub(crate) use self::request::{ImagesRequest, ResponseFormat, WantedFormat};

/// How long a sample may take, queue included: as long as that API's own clients wait.
const WITHIN: Duration = Duration::from_secs(600);

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
    // Whoever sends a key may ask for the images again.
    let guard = (!is_keyed()).then(|| CancelOnDrop {
        app: app.clone(),
        caller: *caller,
        sample: Some(queued.id()),
    });
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
