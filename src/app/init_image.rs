//! The image that a sample starts from instead of noise alone.

use sqlx::PgConnection;

use super::Refusal;
use super::sample::options::SampleOptions;
use super::warnings::is_usual_size;
use crate::db;
use crate::domain::code::Code;
use crate::domain::id::{ImageId, ProjectId};
use crate::domain::image::Image;
use crate::domain::invalid::FieldError;
use crate::domain::model_info::ModelInfo;
use crate::domain::sample::{InitImage, SampleSettings, decimal};
use crate::domain::warning::Warning;

/// The image that a request names to start from, with the size of the generated images unless the request gives one.
pub(super) struct ChosenInit {
    pub(super) init: InitImage,
    /// Of the image itself, in pixels.
    own_size: (usize, usize),
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
    let pixels = |side: i32| usize::try_from(side).unwrap_or(0);
    let own_size = (pixels(image.width), pixels(image.height));
    let (width, height) = fitting_size(own_size, model);
    Ok(Some(ChosenInit { init: init_of(image, noise_strength), own_size, width, height }))
}

impl ChosenInit {
    /// Warns of a size that is not the image's own, though the request asks for none.
    pub(super) fn of_size(
        &self,
        asked: &SampleOptions,
        settings: &SampleSettings,
    ) -> Option<Warning> {
        let (width, height) = (settings.width, settings.height);
        let is_near = |own: usize, side: usize| own.abs_diff(side) * 20 <= own;
        let is_own = is_near(self.own_size.0, width) && is_near(self.own_size.1, height);
        if is_own || asked.width.is_some() || asked.height.is_some() {
            return None;
        }
        let detail = format!(
            "init_image has {}×{} pixels, and {width}×{height} are drawn, which the base model does well: give width and \
             height for another size",
            self.own_size.0, self.own_size.1
        );
        Some(Warning::new(Code::InitImageResized, "/init_image", detail))
    }
}

pub(super) fn init_of(image: Image, noise_strength: f64) -> InitImage {
    InitImage {
        image_id: image.image_id,
        storage_key: image.storage_key,
        sha256: image.sha256,
        noise_strength,
    }
}

/// The image's own size if the base model draws that well, or else the one of the same proportions with as many pixels as the
/// model's own; rounded to the model's multiple.
fn fitting_size(own: (usize, usize), model: &ModelInfo) -> (usize, usize) {
    let multiple = model.size_multiple;
    let scaled = |scale: f64| {
        let side = |pixels: usize| {
            let cells = (pixels as f64 * scale / multiple as f64).round() as usize;
            (cells.max(1) * multiple).min(model.max_size() / multiple * multiple)
        };
        (side(own.0), side(own.1))
    };
    if is_usual_size(own, model) {
        return scaled(1.0);
    }
    let pixels = (own.0 * own.1).max(1) as f64;
    scaled(model.native_size as f64 / pixels.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::base_model::SamplingDefaults;
    use crate::domain::digest::Digest;
    use crate::domain::training::TrainingRecipe;

    #[test]
    fn a_size_is_the_images_own_as_far_as_it_is_drawn_well() {
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
            ((515, 760), (512, 760)),
            ((256, 256), (512, 512)),
            ((4096, 2048), (728, 360)),
            ((8192, 32), (2048, 32)),
        ] {
            assert_eq!(fitting_size(size, &model), fitting, "{size:?}");
        }
    }
}
