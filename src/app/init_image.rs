//! The image that a sample starts from instead of noise alone.

use sqlx::PgConnection;

use super::Refusal;
use crate::db;
use crate::domain::code::Code;
use crate::domain::id::{ImageId, ProjectId};
use crate::domain::image::Image;
use crate::domain::invalid::FieldError;
use crate::domain::model_info::ModelInfo;
use crate::domain::sample::{InitImage, decimal};

/// The image that a request names to start from, with the size of the generated images unless the request gives one.
pub(super) struct ChosenInit {
    pub(super) init: InitImage,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// The `noise_strength` of a request that gives none, as in diffusers.
pub const DEFAULT_NOISE_STRENGTH: f64 = 0.8;

/// Finds the image that a request starts from.
pub(super) async fn choose_init(
    db: &mut PgConnection,
    project_id: ProjectId,
    model: &ModelInfo,
    image: Option<ImageId>,
    noise_strength: Option<f64>,
) -> Result<Option<ChosenInit>, Refusal> {
    let Some(image_id) = image else {
        if noise_strength.is_some() {
            let detail = "noise_strength says how much noise is added to an init_image: name one";
            return Err(FieldError::new("/noise_strength", Code::MissingField, detail).into());
        }
        return Ok(None);
    };
    let noise_strength = decimal(noise_strength.unwrap_or(DEFAULT_NOISE_STRENGTH));
    let image = db::image::find(db, project_id, image_id).await?.ok_or_else(|| {
        let detail = format!("no image `{image_id}`: upload one with POST /v1/images");
        FieldError::new("/init_image", Code::UnknownImage, detail)
    })?;
    let (width, height) = fitting_size(&image, model);
    Ok(Some(ChosenInit { init: init_of(image, noise_strength), width, height }))
}

pub(super) fn init_of(image: Image, noise_strength: f64) -> InitImage {
    InitImage {
        image_id: image.image_id,
        storage_key: image.storage_key,
        sha256: image.sha256,
        noise_strength,
    }
}

/// The image's own size, reduced to the largest that can be generated and rounded to the model's multiple.
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
    use crate::domain::digest::Digest;
    use crate::domain::image::ImageSource;
    use crate::domain::record::Record;
    use crate::domain::storage_key::StorageKey;
    use crate::domain::training::TrainingRecipe;

    #[test]
    fn a_size_is_the_images_own_as_far_as_it_can_be_generated() {
        let model = ModelInfo {
            name: String::new(),
            digest: Digest::default(),
            size_multiple: 8,
            native_size: 512,
            max_prompt_tokens: 77,
            num_train_timesteps: 1000,
            schedulers: Vec::new(),
            recipe: TrainingRecipe::paper(),
            sampling: SamplingDefaults::paper(),
            has_class_images: false,
            class_image_set: None,
            count_tokens: Box::new(|_, _| 0),
            check_steps: Box::new(|_, _| Ok(())),
            has_token: Box::new(|_| false),
            training_memory: Box::new(|_| 0),
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
                sha256: Digest::default(),
                storage_key: StorageKey::upload(ImageId::generate()),
                regions: Vec::new(),
                created_at: Utc::now(),
                record: Record::new(Utc::now(), Default::default()),
            };
            assert_eq!(fitting_size(&image, &model), fitting, "{size:?}");
        }
    }
}
