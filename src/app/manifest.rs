//! Manifests: what made an image, and the same image from it again.

use sqlx::PgConnection;

use super::init_image::init_of;
use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::ModifierToken;
use crate::domain::delta_use::{DeltaUse, MAX_DELTAS, STRENGTHS};
use crate::domain::id::{DeltaId, ImageId};
use crate::domain::image::ImageSource;
use crate::domain::invalid::{Checks, FieldError, Invalid, all_or_errors};
use crate::domain::manifest::Manifest;
use crate::domain::merge::MergeRecipe;
use crate::domain::merge::options::MergeOptions;
use crate::domain::model_info::ModelInfo;
use crate::domain::sample::SampleTask;
use crate::domain::version::TaskVersion;
use crate::image_file;

impl App {
    /// Returns what a generated image was made from.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such image, or it has no manifest: uploaded images have none, and neither have
    /// images that were generated before manifests existed.
    pub async fn manifest(&self, caller: &Caller, image_id: ImageId) -> Result<Manifest, Refusal> {
        let image = self.image(caller, image_id).await?;
        match image.source {
            ImageSource::Sample { .. } => {}
            ImageSource::Photo { .. } | ImageSource::Upload { .. } => {
                return Err(Refusal::not_found("manifest of the uploaded image", image_id));
            }
        }
        let png = self.image_file(caller, &image).await?;
        match image_file::manifest_of(&png) {
            Ok(manifest) => Ok(manifest),
            Err(image_file::PictureError::NoManifest) => {
                Err(Refusal::not_found("manifest of", image_id))
            }
            Err(error) => Err(Refusal::internal(error)),
        }
    }
}

/// The task that draws a manifest's picture again, here.
///
/// Deltas and images are looked up by their digests. Another engine version or precision is no reason to refuse: it may
/// draw the same, and the new picture's own manifest says what drew it.
pub(super) async fn task_again(
    db: &mut PgConnection,
    model: &ModelInfo,
    manifest: Manifest,
) -> Result<SampleTask, Refusal> {
    if manifest.base_model != model.digest {
        let detail = format!(
            "the picture was drawn by base model {:.12}, this service has {} ({:.12})",
            manifest.base_model, model.name, model.digest
        );
        let pointer = "/from_manifest/base_model";
        return Err(FieldError::new(pointer, Code::BaseModelMismatch, detail).into());
    }
    let settings = manifest.settings();
    settings.check(model).map_err(|Invalid(errors)| {
        Invalid(errors.into_iter().map(|error| below(error, "/from_manifest")).collect())
    })?;
    let deltas = find_deltas(db, model, &manifest).await?;
    check_prompts(db, model, &manifest, &deltas).await?;
    let merge = merge_recipe(model, &manifest)?;
    let init = match &manifest.init_image {
        None => None,
        Some(init) => {
            let image = db::image::find_by_digest(db, &init.sha256).await?.ok_or_else(|| {
                let detail = format!("no image here has the digest {}", init.sha256);
                FieldError::new("/from_manifest/init_image/sha256", Code::UnknownImage, detail)
            })?;
            let init = init_of(image, init.noise_strength);
            let above = "/from_manifest/init_image";
            init.check(&settings).map_err(|error| below(error, above))?;
            Some(init)
        }
    };
    Ok(SampleTask {
        version: TaskVersion::NEWEST,
        base_digest: manifest.base_model,
        prompt: manifest.prompt,
        negative_prompt: manifest.negative_prompt,
        settings,
        deltas,
        merge,
        init,
    })
}

/// How the deltas are merged, which several must say and others cannot.
fn merge_recipe(model: &ModelInfo, manifest: &Manifest) -> Result<MergeRecipe, Invalid> {
    let pointer = "/from_manifest/merge";
    match (&manifest.merge, manifest.deltas.len()) {
        (None, 0 | 1) => Ok(MergeRecipe::default()),
        (Some(merge), 2..) => MergeOptions::from(merge.recipe.clone()).recipe(model, pointer),
        (None, 2..) => {
            let detail = "several deltas are merged, and the manifest does not say how";
            Err(FieldError::new(pointer, Code::MissingField, detail).into())
        }
        (Some(_), 0 | 1) => {
            let detail = "less than two deltas are not merged: write null";
            Err(FieldError::new(pointer, Code::NotApplicable, detail).into())
        }
    }
}

/// A manifest comes from a file, and files are changed: it is held to the same limits as any request.
async fn check_prompts(
    db: &mut PgConnection,
    model: &ModelInfo,
    manifest: &Manifest,
    deltas: &[DeltaUse],
) -> Result<(), Refusal> {
    let ids: Vec<DeltaId> = deltas.iter().map(|used| used.delta_id).collect();
    let contents = db::delta::concepts_of(db, &ids).await?;
    let tokens: Vec<ModifierToken> =
        contents.into_iter().filter_map(|concept| concept.words.modifier_token).collect();
    let mut checks = Checks::default();
    for (text, pointer) in
        [(&manifest.prompt, "/prompt"), (&manifest.negative_prompt, "/negative_prompt")]
    {
        if let Err(error) = model.check_prompt(text, &tokens, pointer) {
            checks.push(below(error, "/from_manifest"));
        }
    }
    Ok(checks.finish()?)
}

async fn find_deltas(
    db: &mut PgConnection,
    model: &ModelInfo,
    manifest: &Manifest,
) -> Result<Vec<DeltaUse>, Refusal> {
    if manifest.deltas.len() > MAX_DELTAS {
        let detail = format!("at most {MAX_DELTAS} deltas can be combined");
        let pointer = "/from_manifest/deltas";
        return Err(FieldError::new(pointer, Code::TooManyDeltas, detail).into());
    }
    let digests: Vec<String> = manifest.deltas.iter().map(|delta| delta.sha256.clone()).collect();
    let found = db::delta::find_by_digest(db, &digests).await?;
    let uses = manifest.deltas.iter().enumerate().map(|(index, wanted)| {
        let known = found
            .iter()
            .find(|delta| delta.sha256 == wanted.sha256 && delta.base_digest == model.digest);
        let pointer = format!("/from_manifest/deltas/{index}");
        if !STRENGTHS.contains(&wanted.strength) {
            let (least, most) = (STRENGTHS.start(), STRENGTHS.end());
            let detail = format!("{} is outside {least} to {most}", wanted.strength);
            let pointer = format!("{pointer}/strength");
            return Err(FieldError::new(pointer, Code::OutOfRange, detail));
        }
        let delta = known.ok_or_else(|| {
            let detail = format!(
                "no delta here has the digest {}: it belongs to another service, or was made again",
                wanted.sha256
            );
            FieldError::new(format!("{pointer}/sha256"), Code::UnknownDelta, detail)
        })?;
        Ok(delta.used_at(wanted.strength))
    });
    Ok(all_or_errors(uses)?)
}

/// The same error, about the field of the manifest.
fn below(error: FieldError, parent: &str) -> FieldError {
    let field = if error.pointer == "/first_index" { "/image_index" } else { &error.pointer };
    FieldError { pointer: format!("{parent}{field}"), ..error }
}
