//! What clients attach to objects of every table: their columns `metadata` and `external_id`.

use sqlx::PgExecutor;
use sqlx::types::Json;

use super::record_of;
use crate::domain::id::{
    ConceptId, DeltaId, ImageId, ImageSetId, JobId, ProjectId, StudyId, WebhookEndpointId,
};
use crate::domain::labelled::Labelled;
use crate::domain::record::{ExternalId, Labels, Metadata, Record};

/// Whether a statement failed because an external id is taken.
pub fn is_taken_external_id(error: &sqlx::Error) -> bool {
    super::broken_constraint(error).is_some_and(|name| name.ends_with("external_id_is_unique"))
}

/// Locks an object of a project until the transaction ends. Returns its revision and labels, or `None` if there is none.
pub async fn lock(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    object: Labelled,
) -> sqlx::Result<Option<Record>> {
    macro_rules! locked {
        ($table:tt, $condition:tt, $($id:expr),+) => {
            sqlx::query!(
                r#"select revision, updated_at, metadata as "metadata: Json<Metadata>",
                    external_id as "external_id: ExternalId" from "# + $table
                    + " where project_id = $1 and " + $condition + " for update",
                project_id.0,
                $($id),+
            )
            .fetch_optional(db)
            .await?
            .map(|row| record_of(row.revision, row.updated_at, row.metadata, row.external_id))
        };
    }
    Ok(match object {
        Labelled::Concept(id) => locked!("concept", "concept_id = $2", id.0),
        Labelled::Job(id, kind) => {
            locked!("job", "job_id = $2 and kind = $3", id.0, kind.as_str())
        }
        Labelled::Image(id) => locked!("image", "image_id = $2", id.0),
        Labelled::ImageSet(id) => locked!("image_set", "image_set_id = $2", id.0),
        Labelled::Delta(id) => locked!("delta", "delta_id = $2", id.0),
        Labelled::Study(id) => locked!("preference_study", "study_id = $2", id.0),
        Labelled::WebhookEndpoint(id) => {
            locked!("webhook_endpoint", "webhook_endpoint_id = $2", id.0)
        }
    })
}

/// Replaces the labels of an object.
pub async fn set(db: impl PgExecutor<'_>, object: Labelled, labels: &Labels) -> sqlx::Result<()> {
    macro_rules! set {
        ($table:tt, $condition:tt, $id:expr) => {
            sqlx::query!(
                "update " + $table + " set metadata = $2, external_id = $3 where " + $condition,
                $id,
                Json(&labels.metadata) as Json<&Metadata>,
                labels.external_id.as_ref().map(ExternalId::as_str),
            )
            .execute(db)
            .await?
        };
    }
    match object {
        Labelled::Concept(id) => set!("concept", "concept_id = $1", id.0),
        Labelled::Job(id, _) => set!("job", "job_id = $1", id.0),
        Labelled::Image(id) => set!("image", "image_id = $1", id.0),
        Labelled::ImageSet(id) => set!("image_set", "image_set_id = $1", id.0),
        Labelled::Delta(id) => set!("delta", "delta_id = $1", id.0),
        Labelled::Study(id) => set!("preference_study", "study_id = $1", id.0),
        Labelled::WebhookEndpoint(id) => {
            set!("webhook_endpoint", "webhook_endpoint_id = $1", id.0)
        }
    };
    Ok(())
}

/// The object of the same kind in the project that has an external id.
///
/// - `like`: any object of the kind
pub async fn holder(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    like: Labelled,
    external_id: &ExternalId,
) -> sqlx::Result<Option<Labelled>> {
    macro_rules! holder {
        ($column:tt, $table:tt, $condition:tt, $kind:expr) => {
            sqlx::query_scalar!(
                "select "
                    + $column
                    + " from "
                    + $table
                    + " where project_id = $1 and external_id = $2 and "
                    + $condition,
                project_id.0,
                external_id.as_str(),
                $kind,
            )
            .fetch_optional(db)
            .await?
        };
    }
    let any: Option<&str> = None;
    Ok(match like {
        Labelled::Concept(_) => holder!("concept_id", "concept", "$3::text is null", any)
            .map(|id| Labelled::Concept(ConceptId(id))),
        Labelled::Job(_, kind) => holder!("job_id", "job", "kind = $3", kind.as_str())
            .map(|id| Labelled::Job(JobId(id), kind)),
        Labelled::Image(_) => holder!("image_id", "image", "$3::text is null", any)
            .map(|id| Labelled::Image(ImageId(id))),
        Labelled::ImageSet(_) => holder!("image_set_id", "image_set", "$3::text is null", any)
            .map(|id| Labelled::ImageSet(ImageSetId(id))),
        Labelled::Delta(_) => holder!("delta_id", "delta", "$3::text is null", any)
            .map(|id| Labelled::Delta(DeltaId(id))),
        Labelled::Study(_) => holder!("study_id", "preference_study", "$3::text is null", any)
            .map(|id| Labelled::Study(StudyId(id))),
        Labelled::WebhookEndpoint(_) => {
            holder!("webhook_endpoint_id", "webhook_endpoint", "$3::text is null", any)
                .map(|id| Labelled::WebhookEndpoint(WebhookEndpointId(id)))
        }
    })
}
