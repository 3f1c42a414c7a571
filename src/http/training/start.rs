//! The request that starts a training.

use serde::Deserialize;
use utoipa::openapi::{Deprecated, ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::app::queue::JobOptions;
use crate::app::regularization::{NewRegularization, RegularizationChoice};
use crate::app::training::{NewPreviews, NewTraining};
use crate::domain::concept::ConceptRef;
use crate::domain::id::DeltaId;
use crate::domain::job::schedule::{Priority, Schedule};
use crate::domain::promotion::Promote;
use crate::domain::record::{ExternalId, Labels, Metadata};
use crate::domain::training::{ClassImages, FIELD_ALIASES, Preset, TrainingRecipe};
use crate::http::regularization::RegularizationForm;
use crate::http::training_preview::PreviewsForm;

/// A training to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartTraining {
    /// Ids or handles of 1 to 8 concepts. Several concepts are learned jointly and share the resulting delta.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 8)]
    concepts: Vec<ConceptRef>,
    /// The recipe to start from. Defaults to `default`.
    #[serde(default)]
    #[schema(default = "default")]
    preset: Preset,
    /// Fields of the recipe that differ from the preset.
    #[serde(default)]
    #[schema(schema_with = partial_recipe)]
    recipe: serde_json::Map<String, serde_json::Value>,
    /// Which class images to use. Defaults to those of the base model's class images whose caption contains the class noun, or all
    /// if none does: `{"source": "set", "select": "class_noun"}`.
    #[schema(value_type = Option<RegularizationForm>)]
    regularization: Option<RegularizationForm>,
    /// An earlier name for two choices of `regularization`: `auto` is its default, `none` is `{"source": "none"}`.
    #[schema(value_type = Option<ClassImages>)]
    class_images: Option<ClassImages>,
    /// The delta to go on from instead of the base model, for example to teach a second concept on top of a first. The result
    /// contains that delta's concepts too, with the embedding rows of those that the training does not teach as they were. It
    /// can become the current delta only of the concepts that the training teaches.
    start_from: Option<DeltaId>,
    /// Random seed, from 0 to 2⁵³ − 1. The server chooses one if omitted. The same seed, photos and recipe give the same
    /// delta.
    #[schema(maximum = 9007199254740991_u64)]
    seed: Option<u64>,
    /// Whether the resulting delta becomes the current delta of the concepts that the training teaches: `auto` if a concept has
    /// none yet, `always`, or `never`. Defaults to `auto`. Any delta can be promoted later.
    #[schema(value_type = Option<Promote>)]
    promote: Option<Promote>,
    /// Draw the same prompts every so many steps, to see what has been learned so far: see
    /// `GET /v1/trainings/{training_id}/previews`. The delta does not depend on it. Nothing is drawn if omitted.
    #[schema(value_type = Option<PreviewsForm>)]
    previews: Option<PreviewsForm>,
    /// Whether to answer only what the request would make: 200 with the resolved request, an estimate of its time and every
    /// warning. Nothing is made. Defaults to false.
    pub(super) dry_run: Option<bool>,
    /// How urgent it is. Within one kind of job, all jobs of a higher priority run first. Defaults to `normal`.
    #[schema(default = "normal")]
    priority: Option<Priority>,
    /// The job fails with `deadline_exceeded` if no worker has started it within so many seconds, 1 to 31536000 (a year).
    #[schema(minimum = 1, maximum = 31_536_000)]
    start_within_seconds: Option<u64>,
    /// The job fails with `deadline_exceeded` if it has not ended within so many seconds, 1 to 31536000 (a year).
    #[schema(minimum = 1, maximum = 31_536_000)]
    finish_within_seconds: Option<u64>,
    /// Texts of your own, to be returned with the job and never interpreted: at most 16, with keys of up to 64 and values of up to
    /// 512 characters. Defaults to none.
    metadata: Option<Metadata>,
    /// Your own id for the job, of up to 255 characters. A second job of this kind with the same one is refused with
    /// `external_id_taken`, which names the first. Defaults to none.
    external_id: Option<ExternalId>,
}

impl StartTraining {
    /// What the job gets besides its task.
    pub(super) fn options(&self) -> JobOptions {
        let metadata = self.metadata.clone().unwrap_or_default();
        let labels = Labels { metadata, external_id: self.external_id.clone() };
        JobOptions { schedule: self.schedule(), labels }
    }

    fn schedule(&self) -> Schedule {
        Schedule {
            priority: self.priority.unwrap_or_default(),
            start_within_seconds: self.start_within_seconds,
            finish_within_seconds: self.finish_within_seconds,
        }
    }
}

/// The schema of a recipe whose fields are all optional.
fn partial_recipe() -> RefOr<Schema> {
    let mut schema = TrainingRecipe::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.required.clear();
        for (alias, field) in FIELD_ALIASES {
            let text = format!("Another name of `{field}`. Give one of the two.");
            if let Some(RefOr::T(Schema::Object(field))) = object.properties.get(field) {
                let field = ObjectBuilder::from(field.clone());
                let field = field.description(Some(text)).deprecated(Some(Deprecated::True));
                object.properties.insert(alias.to_owned(), field.build().into());
            }
        }
        object.description = Some("Fields of the recipe that differ from the preset.".to_owned());
    }
    schema
}

impl From<StartTraining> for NewTraining {
    fn from(body: StartTraining) -> Self {
        let StartTraining {
            concepts,
            preset,
            recipe,
            regularization,
            class_images,
            start_from,
            seed,
            promote,
            previews,
            ..
        } = body;
        let previews = previews.map(NewPreviews::from);
        let promote = promote.unwrap_or_default();
        let regularization = regularization.map(RegularizationChoice::from);
        let regularization = NewRegularization { class_images, regularization };
        Self { concepts, preset, recipe, regularization, start_from, seed, promote, previews }
    }
}
