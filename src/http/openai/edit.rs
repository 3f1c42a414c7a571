//! `POST /openai/v1/images/edits`: images that start from one of the client's.

use axum::extract::{Request, State};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::error::OpenAiError;
use super::model::uses_of;
use super::{ImagesBody, ImagesRequest, ResponseFormat, WantedFormat, draw};
use crate::app::idempotency::beforehand;
use crate::app::image::UploadedFile;
use crate::app::{App, Caller, Precondition};
use crate::domain::code::Code;
use crate::domain::invalid::FieldError;
use crate::domain::scheduler::SchedulerName;
use crate::http::error::ApiError;
use crate::http::extract::from_json;
use crate::http::file::{first_bytes, read_file};
use crate::http::form::{Form, Part};

/// The most bytes of a field that is no image.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Fields that are numbers; a form has only texts.
const NUMBERS: [&str; 7] = [
    "n",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "noise_strength",
    "output_compression",
    "partial_images",
];

/// An image to start from, and what to make of it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; its parts are read one by one")]
pub(crate) struct EditForm {
    /// A PNG, JPEG or WebP file of at most 20 MiB, 50 million pixels and 8192 pixels a side. It is scaled to cover the size and
    /// cropped at the center. Masks are not supported.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
    /// What to make of it. A modifier token in the prompt brings in its concept.
    prompt: String,
    /// As for a generation.
    model: Option<String>,
    /// The number of images, from 1 to 16. Defaults to 1.
    #[schema(minimum = 1, maximum = 16)]
    n: Option<usize>,
    /// As for a generation. `auto` is the size of the image if the base model draws that well, or else one of its proportions.
    size: Option<String>,
    /// Defaults to `b64_json`.
    response_format: Option<ResponseFormat>,
    /// Only `png`, which is the default.
    output_format: Option<String>,
    /// Accepted and without effect, from 0 to 100.
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
    /// Not in OpenAI's API. How much noise is added to the image, above 0 and up to 1. Defaults to 0.8.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    noise_strength: Option<f64>,
}

/// Generates images that start from an image, in the form of OpenAI's API.
///
/// The form has the image as `image`, and the other fields of a generation as texts. Noise is added to the image
/// (`noise_strength`) and taken away again by the prompt. The answer comes with the images, after at most ten minutes.
#[utoipa::path(post, path = "/openai/v1/images/edits", tag = "openai",
    request_body(content = EditForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = ImagesBody, description = "OK"),
        (status = 400, body = OpenAiError, description = "A field is wrong: `param` and `code` say which and how"),
        (status = 404, body = OpenAiError, description = "`model_not_found`"),
        (status = 500, body = OpenAiError, description = "The images could not be made: `code` says why"),
        (status = 503, body = OpenAiError, headers(("retry-after" = u64)), description = "`queue_full`, `overloaded`, …"),
    ))]
pub(crate) async fn edit_images(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<axum::Json<ImagesBody>, ApiError> {
    let headers = request.headers().clone();
    let wanted = request.extensions().get::<WantedFormat>().cloned();
    let mut form = Form::open(request, "image and the other fields").await?;
    let (file, body) = match read_parts(&app, &mut form).await {
        Ok(parts) => parts,
        Err(error) => {
            form.drain().await;
            return Err(error);
        }
    };
    if let Some(wanted) = wanted {
        wanted.tell(body.response_format);
    }
    body.check()?;
    let model = uses_of(&app, &caller, body.model.as_deref()).await?;
    let format = body.response_format.unwrap_or_default();
    // A key is for the sample.
    let image = beforehand(app.add_upload(&caller, file)).await?;
    let new = body.into_sample(model, Some(image.image_id))?;
    let drawn = draw(&app, &caller, &headers, format, new).await;
    if drawn.as_ref().is_err_and(ApiError::is_of_request) {
        // Nothing was queued, so nothing uses the image. What cannot be deleted only wastes space.
        if let Err(error) =
            app.delete_image(&caller, None, image.image_id, &Precondition::Any).await
        {
            tracing::warn!(%error, image = %image.image_id, "the image of a refused edit stays");
        }
    }
    Ok(axum::Json(drawn?))
}

async fn read_parts(app: &App, form: &mut Form) -> Result<(UploadedFile, ImagesRequest), ApiError> {
    let mut image = None;
    let mut fields = Map::new();
    while let Some(mut part) = form.next_part().await? {
        let name = part.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "image" | "image[]" if image.is_some() => {
                let detail = "one image is edited at a time: send one";
                return Err(FieldError::new("/image", Code::TooManyImages, detail).into());
            }
            "image" | "image[]" => {
                let first = first_bytes(&mut part).await?;
                image = Some(read_file(app, first, part).await?);
            }
            "mask" => {
                let detail = "masks are not supported: leave it out, and the prompt changes the whole image by noise_strength";
                return Err(FieldError::new("/mask", Code::NotApplicable, detail).into());
            }
            _ => {
                let value = value_of(&name, read_text(part, &name).await?);
                fields.insert(name, value);
            }
        }
    }
    let image = image.ok_or_else(|| {
        let detail = "send the image as a file called `image`";
        FieldError::new("/image", Code::MissingField, detail)
    })?;
    let fields = serde_json::to_vec(&fields).map_err(|error| ApiError::Internal(error.into()))?;
    Ok((image, from_json(&fields)?))
}

async fn read_text(mut part: Part<'_>, name: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_TEXT_BYTES {
            let detail = format!("a field has at most {MAX_TEXT_BYTES} bytes");
            return Err(FieldError::new(format!("/{name}"), Code::InvalidValue, detail).into());
        }
    }
    String::from_utf8(bytes).map_err(|_| {
        let detail = "a text is UTF-8";
        FieldError::new(format!("/{name}"), Code::InvalidValue, detail).into()
    })
}

/// A text of a form as the field's JSON.
fn value_of(name: &str, text: String) -> Value {
    let is_number = NUMBERS.contains(&name);
    match text.as_str() {
        "true" | "false" if name == "stream" => Value::Bool(text == "true"),
        number if is_number => {
            number.trim().parse().map(Value::Number).unwrap_or(Value::String(text))
        }
        _ => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_a_form_are_read_as_their_types() {
        for (name, text, value) in [
            ("n", "2", json!(2)),
            ("guidance_scale", "7.5", json!(7.5)),
            ("n", "two", json!("two")),
            ("prompt", "2", json!("2")),
            ("stream", "false", json!(false)),
        ] {
            assert_eq!(value_of(name, text.to_owned()), value, "{name}={text}");
        }
    }
}
