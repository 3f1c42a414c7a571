//! Which objects the rows of the catalog refer to, and from which rows.

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::domain::digest::Digest;
use crate::domain::id::{ConceptId, DeltaId, EvaluationId, ImageId, ImageSetId, JobId, TrainingId};
use crate::domain::storage_key::StorageKey;

/// An object that a row refers to.
#[derive(Clone, Debug)]
pub struct RowObject {
    /// What has it, as clients know it.
    pub owner: String,
    pub key: StorageKey,
    /// `None` where the row has no size.
    pub size_bytes: Option<i64>,
}

/// A page of rows, and where the next one begins.
pub type RowPage = (Vec<RowObject>, Option<Uuid>);

/// Those of these jobs that have not ended: their objects may get rows yet.
///
/// What has ended by this answer has all its rows, so ask for [`keys_of_jobs`] after it.
pub async fn live_jobs(db: impl PgExecutor<'_>, jobs: &[JobId]) -> sqlx::Result<Vec<JobId>> {
    sqlx::query_scalar!(
        r#"
        select job_id as "job_id: JobId" from job
        where job_id = any($1) and state in ('queued', 'running')
        "#,
        &jobs.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await
}

/// The objects that rows of these jobs refer to: their deltas, packs, images, sheets and checkpoints.
pub async fn keys_of_jobs(
    db: impl PgExecutor<'_>,
    jobs: &[JobId],
) -> sqlx::Result<Vec<StorageKey>> {
    let keys = sqlx::query_scalar!(
        r#"
        select storage_key as "key!" from delta where job_id = any($1)
        union all
        select pack_key from delta where job_id = any($1) and pack_key is not null
        union all
        select storage_key from image where sample_id = any($1)
        union all
        select sheet_key from job_report where job_id = any($1) and sheet_key is not null
        union all
        select storage_key from checkpoint where job_id = any($1)
        "#,
        &jobs.iter().map(|id| id.0).collect::<Vec<_>>(),
    );
    Ok(keys.fetch_all(db).await?.into_iter().map(StorageKey::from).collect())
}

/// The objects of these images.
pub async fn keys_of_images(
    db: impl PgExecutor<'_>,
    images: &[ImageId],
) -> sqlx::Result<Vec<StorageKey>> {
    let keys = sqlx::query_scalar!(
        "select storage_key from image where image_id = any($1)",
        &images.iter().map(|id| id.0).collect::<Vec<_>>(),
    );
    Ok(keys.fetch_all(db).await?.into_iter().map(StorageKey::from).collect())
}

/// The objects of these masks.
pub async fn keys_of_masks(
    db: impl PgExecutor<'_>,
    masks: &[ImageId],
) -> sqlx::Result<Vec<StorageKey>> {
    let rows = sqlx::query!(
        r#"
        select concept_id as "concept_id!: ConceptId", mask_id as "mask_id!: ImageId"
        from photo join image using (image_id)
        where mask_id = any($1) and concept_id is not null
        "#,
        &masks.iter().map(|id| id.0).collect::<Vec<_>>(),
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    Ok(rows.map(|row| StorageKey::photo(row.concept_id, row.mask_id)).collect())
}

/// Those of these digests that a set has.
pub async fn digests_of_sets(
    db: impl PgExecutor<'_>,
    digests: &[&str],
) -> sqlx::Result<Vec<Digest>> {
    let found = sqlx::query_scalar!(
        "select distinct digest from image_set where digest = any($1)",
        digests as &[&str],
    );
    Ok(found.fetch_all(db).await?.into_iter().map(Digest::from).collect())
}

/// Those of these objects that a job which has not ended names in its task.
pub async fn keys_of_tasks(
    db: impl PgExecutor<'_>,
    keys: &[&str],
) -> sqlx::Result<Vec<StorageKey>> {
    let found = sqlx::query_scalar!(
        r#"
        select distinct named.key as "key!" from (
            select task from job where state = 'queued' union all select task from job where state = 'running'
        ) as live, lateral (
            select jsonb_path_query(task, '$.**.storage_key') #>> '{}' as key
            union all select jsonb_path_query(task, '$.**.pack_key') #>> '{}'
        ) as named
        where named.key = any($1)
        "#,
        keys as &[&str],
    );
    Ok(found.fetch_all(db).await?.into_iter().map(StorageKey::from).collect())
}

/// The objects of images, in the order of their ids.
pub async fn of_images(db: impl PgExecutor<'_>, after: Uuid, limit: i64) -> sqlx::Result<RowPage> {
    let rows = sqlx::query!(
        r#"
        select image_id as "image_id: ImageId", storage_key, size_bytes from image
        where image_id > $1 order by image_id limit $2
        "#,
        after,
        limit,
    );
    let rows = rows.fetch_all(db).await?;
    let next = rows.last().map(|row| row.image_id.0);
    let objects = rows.into_iter().map(|row| RowObject {
        owner: format!("image {}", row.image_id),
        key: row.storage_key.into(),
        size_bytes: Some(row.size_bytes),
    });
    Ok((objects.collect(), next))
}

/// The objects of masks, in the order of their photos' ids.
pub async fn of_masks(db: impl PgExecutor<'_>, after: Uuid, limit: i64) -> sqlx::Result<RowPage> {
    let rows = sqlx::query!(
        r#"
        select image_id as "image_id: ImageId", concept_id as "concept_id!: ConceptId", mask_id as "mask_id!: ImageId",
            mask_size_bytes
        from photo join image using (image_id)
        where mask_id is not null and concept_id is not null and image_id > $1 order by image_id limit $2
        "#,
        after,
        limit,
    );
    let rows = rows.fetch_all(db).await?;
    let next = rows.last().map(|row| row.image_id.0);
    let objects = rows.into_iter().map(|row| RowObject {
        owner: format!("mask of image {}", row.image_id),
        key: StorageKey::photo(row.concept_id, row.mask_id),
        size_bytes: row.mask_size_bytes,
    });
    Ok((objects.collect(), next))
}

/// The objects of deltas and their packs, in the order of the deltas' ids.
pub async fn of_deltas(db: impl PgExecutor<'_>, after: Uuid, limit: i64) -> sqlx::Result<RowPage> {
    let rows = sqlx::query!(
        r#"
        select delta_id as "delta_id: DeltaId", storage_key, size_bytes, pack_key from delta
        where delta_id > $1 order by delta_id limit $2
        "#,
        after,
        limit,
    );
    let rows = rows.fetch_all(db).await?;
    let next = rows.last().map(|row| row.delta_id.0);
    let mut objects = Vec::new();
    for row in rows {
        let (id, size_bytes) = (row.delta_id, Some(row.size_bytes));
        objects.push(RowObject {
            owner: format!("delta {id}"),
            key: row.storage_key.into(),
            size_bytes,
        });
        objects.extend(row.pack_key.map(|key| RowObject {
            owner: format!("merge pack of delta {id}"),
            key: key.into(),
            size_bytes: None,
        }));
    }
    Ok((objects, next))
}

/// The objects of image sets, in the order of their ids.
pub async fn of_image_sets(
    db: impl PgExecutor<'_>,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<RowPage> {
    let rows = sqlx::query!(
        r#"
        select image_set_id as "image_set_id: ImageSetId", digest, size_bytes from image_set
        where image_set_id > $1 order by image_set_id limit $2
        "#,
        after,
        limit,
    );
    let rows = rows.fetch_all(db).await?;
    let next = rows.last().map(|row| row.image_set_id.0);
    let objects = rows.into_iter().map(|row| RowObject {
        owner: format!("image set {}", row.image_set_id),
        key: StorageKey::image_set(&row.digest),
        size_bytes: Some(row.size_bytes),
    });
    Ok((objects.collect(), next))
}

/// The contact sheets of evaluations, in the order of their ids.
pub async fn of_reports(db: impl PgExecutor<'_>, after: Uuid, limit: i64) -> sqlx::Result<RowPage> {
    let rows = sqlx::query!(
        r#"
        select job_id as "job_id: JobId", sheet_key from job_report
        where job_id > $1 order by job_id limit $2
        "#,
        after,
        limit,
    );
    let rows = rows.fetch_all(db).await?;
    let next = rows.last().map(|row| row.job_id.0);
    let objects = rows.into_iter().filter_map(|row| {
        Some(RowObject {
            owner: format!("sheet of evaluation {}", EvaluationId::from(row.job_id)),
            key: row.sheet_key?.into(),
            size_bytes: None,
        })
    });
    Ok((objects.collect(), next))
}

/// The checkpoints of trainings, in the order of the trainings' ids; all of a training are on one page.
pub async fn of_checkpoints(
    db: impl PgExecutor<'_>,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<RowPage> {
    let rows = sqlx::query!(
        r#"
        select job_id as "job_id: JobId", step, storage_key, size_bytes from checkpoint
        where job_id in (
            select distinct job_id from checkpoint where job_id > $1 order by job_id limit $2
        )
        order by job_id
        "#,
        after,
        limit,
    );
    let rows = rows.fetch_all(db).await?;
    let next = rows.last().map(|row| row.job_id.0);
    let objects = rows.into_iter().map(|row| RowObject {
        owner: format!("step {} of training {}", row.step, TrainingId::from(row.job_id)),
        key: row.storage_key.into(),
        size_bytes: Some(row.size_bytes),
    });
    Ok((objects.collect(), next))
}
