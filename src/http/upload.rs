//! Images to start samples from: uploaded for themselves, or anything else that the catalog has.

use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::error::{ApiError, Problem};
use super::image::{ImageBody, decode, from_multipart, read_limited, short_file_name, store};
use super::photo::PhotoError;
use crate::app::App;
use crate::db;
use crate::domain::code::Code;
use crate::domain::id::ImageId;
use crate::domain::image::{Image, ImageSource};
use crate::domain::invalid::FieldError;
use crate::domain::model_info::ModelInfo;
use crate::domain::sample::{InitImage, decimal};
use crate::storage::StorageKey;

/// An image to start samples from.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; its one part is read as it comes")]
pub(crate) struct UploadImageForm {
    /// A PNG, JPEG or WebP file, at most 20 MiB, 50 million pixels and 8192 pixels a side.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Uploads an image that samples can start from, as their `init_image`.
///
/// It is turned upright as its EXIF data says, then kept as PNG without any metadata. Photos of concepts and pictures of
/// samples need no upload: their ids do as well.
#[utoipa::path(post, path = "/v1/images", tag = "images",
    request_body(content = UploadImageForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, body = ImageBody),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`image_unreadable`, `image_too_large`, `image_too_small`, `missing_field`"),
    ))]
pub(crate) async fn upload_image(
    State(app): State<App>,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let mut form = Multipart::from_request(request, &()).await.map_err(|rejection| {
        ApiError::UnsupportedMediaType(format!(
            "send the image as multipart/form-data: {}",
            rejection.body_text()
        ))
    })?;
    let field = form.next_field().await.map_err(from_multipart)?.ok_or_else(|| {
        FieldError::new("/file", Code::MissingField, "send the image as a field called `file`")
    })?;
    if field.name() != Some("file") {
        let name = field.name().unwrap_or_default().to_owned();
        let detail = format!("unknown field `{name}`: send the image as a field called `file`");
        return Err(FieldError::new(format!("/{name}"), Code::UnknownField, detail).into());
    }
    let file_name = field.file_name().map(short_file_name);
    let photo = match read_limited(field).await? {
        Some(file) => decode(&app, file).await?,
        None => Err(PhotoError::TooManyBytes),
    };
    let photo = photo.map_err(|error| FieldError::new("/file", error.code(), error.to_string()))?;
    if form.next_field().await.map_err(from_multipart)?.is_some() {
        let detail = "one image is uploaded at a time";
        return Err(FieldError::new("/file", Code::TooManyImages, detail).into());
    }

    let image_id = ImageId::generate();
    let source = ImageSource::Upload { file_name };
    let image = store(&app, image_id, source, &StorageKey::upload(image_id), photo).await?;
    db::image::record(&app.db, &image).await?;
    Ok((StatusCode::CREATED, axum::Json(ImageBody::from(image))))
}

/// The image that a request names to start from, with the size that its pictures have unless it says otherwise.
pub(crate) struct ChosenInit {
    pub(crate) init: InitImage,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// Noise that a request without a `noise_strength` adds, as in diffusers.
pub(crate) const DEFAULT_NOISE_STRENGTH: f64 = 0.8;

/// Finds the image that a request starts from.
pub(crate) async fn choose_init(
    db: &mut PgConnection,
    model: &ModelInfo,
    image: Option<ImageId>,
    noise_strength: Option<f64>,
) -> Result<Option<ChosenInit>, ApiError> {
    let Some(image_id) = image else {
        if noise_strength.is_some() {
            let detail = "noise_strength says how much of an init_image is drawn anew: name one";
            return Err(FieldError::new("/noise_strength", Code::MissingField, detail).into());
        }
        return Ok(None);
    };
    let noise_strength = decimal(noise_strength.unwrap_or(DEFAULT_NOISE_STRENGTH));
    let image = db::image::find(db, image_id).await?.ok_or_else(|| {
        let detail = format!("no image `{image_id}`: upload one with POST /v1/images");
        FieldError::new("/init_image", Code::UnknownImage, detail)
    })?;
    let (width, height) = fitting_size(&image, model);
    Ok(Some(ChosenInit { init: init_of(image, noise_strength), width, height }))
}

pub(crate) fn init_of(image: Image, noise_strength: f64) -> InitImage {
    InitImage {
        image_id: image.image_id,
        storage_key: image.storage_key,
        sha256: image.sha256,
        noise_strength,
    }
}

/// The image's own size, shrunk to what can be drawn and rounded to the model's multiple.
fn fitting_size(image: &Image, model: &ModelInfo) -> (usize, usize) {
    let longest = image.width.max(image.height) as f64;
    let scale = (model.max_size() as f64 / longest).min(1.0);
    let multiple = model.size_multiple;
    let side = |pixels: i32| {
        let cells = f64::from(pixels) * scale / multiple as f64;
        (cells.round() as usize).max(1) * multiple
    };
    (side(image.width), side(image.height))
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::domain::base_model::SamplingDefaults;
    use crate::domain::training::TrainingRecipe;

    #[test]
    fn a_size_is_the_images_own_as_far_as_it_can_be_drawn() {
        let model = ModelInfo {
            name: String::new(),
            digest: String::new(),
            size_multiple: 8,
            native_size: 512,
            max_prompt_tokens: 77,
            num_train_timesteps: 1000,
            schedulers: Vec::new(),
            recipe: TrainingRecipe::paper(),
            sampling: SamplingDefaults::paper(),
            has_class_images: false,
            count_tokens: Box::new(|_, _| 0),
            check_steps: Box::new(|_, _| Ok(())),
        };
        for (size, fitting) in [
            ((512, 768), (512, 768)),
            ((515, 770), (512, 768)),
            ((4096, 2048), (2048, 1024)),
            ((8192, 32), (2048, 8)),
        ] {
            let image = Image {
                image_id: ImageId::generate(),
                source: ImageSource::Upload { file_name: None },
                width: size.0,
                height: size.1,
                size_bytes: 0,
                sha256: String::new(),
                storage_key: String::new(),
                created_at: Utc::now(),
            };
            assert_eq!(fitting_size(&image, &model), fitting, "{size:?}");
        }
    }
}
