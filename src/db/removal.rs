//! What depends on an object, and its removal together with that.
//!
//! Rows are removed in one transaction. The objects that they referred to are deleted after it, and `vstar gc` takes what is
//! left.

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::domain::id::{ConceptId, DeltaId, ImageId, JobId, ProjectId, StudyId};
use crate::domain::job::{JobKind, JobState};
use crate::domain::storage_key::StorageKey;

/// A job that uses a concept.
#[derive(Clone, Debug)]
pub struct UsingJob {
    pub job_id: JobId,
    pub kind: JobKind,
    pub state: JobState,
    /// Whether it uses another concept as well.
    pub is_shared: bool,
}

/// A delta that contains a concept.
#[derive(Clone, Debug)]
pub struct UsingDelta {
    pub delta_id: DeltaId,
    pub job_id: JobId,
    pub kind: JobKind,
    /// Whether it contains another concept as well.
    pub is_shared: bool,
}

/// An object of the store that a removed row referred to.
#[derive(Clone, Debug)]
pub struct RemovedObject {
    pub key: StorageKey,
    /// `None` where the row had no size.
    pub size_bytes: Option<i64>,
}

/// Lists the jobs that use a concept, or a delta that contains it.
pub async fn jobs_using(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    concept_id: ConceptId,
) -> sqlx::Result<Vec<UsingJob>> {
    sqlx::query_as!(
        UsingJob,
        r#"
        select job_id as "job_id: JobId", job.kind as "kind: JobKind", state as "state: JobState",
            exists (
                select from job_use as other join concept on concept_id = other.used
                where other.job_id = job.job_id and other.used <> $1
            ) as "is_shared!"
        from job_use join job using (job_id)
        where used = $1 and project_id = $2
        order by job_id
        "#,
        concept_id.0,
        project_id.0,
    )
    .fetch_all(db)
    .await
}

/// Lists the deltas that contain a concept.
pub async fn deltas_with(
    db: impl PgExecutor<'_>,
    concept_id: ConceptId,
) -> sqlx::Result<Vec<UsingDelta>> {
    sqlx::query_as!(
        UsingDelta,
        r#"
        select delta_id as "delta_id: DeltaId", job_id as "job_id: JobId", kind as "kind: JobKind",
            exists (
                select from delta_concept as other
                where other.delta_id = delta.delta_id and other.concept_id <> $1
            ) as "is_shared!"
        from delta_concept join delta using (delta_id) join job using (job_id)
        where delta_concept.concept_id = $1
        order by delta_id
        "#,
        concept_id.0,
    )
    .fetch_all(db)
    .await
}

/// Locks jobs until the transaction ends, samples before their evaluations as everywhere. A worker records nothing for them
/// meanwhile.
pub async fn lock_jobs(db: impl PgExecutor<'_>, jobs: &[JobId]) -> sqlx::Result<()> {
    sqlx::query!(
        "select job_id from job where job_id = any($1) order by kind = 'evaluation', job_id for update",
        &uuids(jobs),
    )
    .fetch_all(db)
    .await?;
    Ok(())
}

/// Locks deltas until the transaction ends. Whoever queues a job that names one of them waits, or has done so before.
pub async fn lock_deltas(db: impl PgExecutor<'_>, deltas: &[DeltaId]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = deltas.iter().map(|id| id.0).collect();
    sqlx::query!(
        "select delta_id from delta where delta_id = any($1) order by delta_id for update",
        &ids,
    )
    .fetch_all(db)
    .await?;
    Ok(())
}

/// Lists the samples of these evaluations.
pub async fn samples_of_evaluations(
    db: impl PgExecutor<'_>,
    evaluations: &[JobId],
) -> sqlx::Result<Vec<JobId>> {
    sqlx::query_scalar!(
        r#"select sample_id as "sample_id: JobId" from evaluation_sample where evaluation_id = any($1)"#,
        &uuids(evaluations),
    )
    .fetch_all(db)
    .await
}

/// The evaluation that a sample belongs to, and its state.
pub async fn evaluation_of(
    db: impl PgExecutor<'_>,
    sample: JobId,
) -> sqlx::Result<Option<(JobId, JobState)>> {
    let row = sqlx::query!(
        r#"
        select job_id as "job_id: JobId", state as "state: JobState"
        from evaluation_sample join job on job_id = evaluation_id where sample_id = $1
        "#,
        sample.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (row.job_id, row.state)))
}

/// Lists the studies that compare subjects of these evaluations.
pub async fn studies_of(
    db: impl PgExecutor<'_>,
    evaluations: &[JobId],
) -> sqlx::Result<Vec<StudyId>> {
    sqlx::query_scalar!(
        r#"select distinct study_id as "study_id: StudyId" from study_use where evaluation_id = any($1)"#,
        &uuids(evaluations),
    )
    .fetch_all(db)
    .await
}

/// Lists the concepts of which a delta is the current one.
pub async fn concepts_with_current(
    db: impl PgExecutor<'_>,
    delta_id: DeltaId,
) -> sqlx::Result<Vec<ConceptId>> {
    sqlx::query_scalar!(
        r#"select concept_id as "concept_id: ConceptId" from concept where current_delta_id = $1"#,
        delta_id.0,
    )
    .fetch_all(db)
    .await
}

/// Locks the concepts that a delta contains until the transaction ends.
pub async fn lock_concepts_of(db: impl PgExecutor<'_>, delta_id: DeltaId) -> sqlx::Result<()> {
    sqlx::query!(
        "select concept_id from concept
        where concept_id in (select concept_id from delta_concept where delta_id = $1)
        order by concept_id for update",
        delta_id.0,
    )
    .fetch_all(db)
    .await?;
    Ok(())
}

/// Keeps what a new job names from being deleted before the transaction ends. Returns how much of it is there.
pub async fn hold(
    db: impl PgExecutor<'_>,
    concepts: &[ConceptId],
    deltas: &[DeltaId],
    images: &[ImageId],
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"
        select (
            (select count(*) from (select from concept where concept_id = any($1) for key share) as held)
            + (select count(*) from (select from delta where delta_id = any($2) for key share) as held)
            + (select count(*) from (select from image where image_id = any($3) for key share) as held)
        ) as "count!"
        "#,
        &concepts.iter().map(|id| id.0).collect::<Vec<_>>(),
        &deltas.iter().map(|id| id.0).collect::<Vec<_>>(),
        &images.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_one(db)
    .await
}

/// Lists the objects of these deltas, of these jobs, of these images and of the photos of these concepts.
pub async fn objects_of(
    db: impl PgExecutor<'_>,
    concepts: &[ConceptId],
    deltas: &[DeltaId],
    jobs: &[JobId],
    images: &[ImageId],
) -> sqlx::Result<Vec<RemovedObject>> {
    let rows = sqlx::query!(
        r#"
        select storage_key as "key!", size_bytes from delta where delta_id = any($2)
        union all
        select pack_key, null from delta where delta_id = any($2) and pack_key is not null
        union all
        select storage_key, size_bytes from image
        where concept_id = any($1) or sample_id = any($3) or image_id = any($4)
        union all
        select sheet_key, null from job_report where job_id = any($3) and sheet_key is not null
        union all
        select storage_key, size_bytes from checkpoint where job_id = any($3)
        "#,
        &concepts.iter().map(|id| id.0).collect::<Vec<_>>(),
        &deltas.iter().map(|id| id.0).collect::<Vec<_>>(),
        &uuids(jobs),
        &images.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    let objects = rows.into_iter();
    Ok(objects
        .map(|row| RemovedObject { key: row.key.into(), size_bytes: row.size_bytes })
        .collect())
}

/// Lists the objects of the masks of these photos, and of the photos of these concepts.
pub async fn masks_of(
    db: impl PgExecutor<'_>,
    concepts: &[ConceptId],
    images: &[ImageId],
) -> sqlx::Result<Vec<RemovedObject>> {
    let rows = sqlx::query!(
        r#"
        select concept_id as "concept_id!: ConceptId", mask_id as "mask_id!: ImageId", mask_size_bytes
        from photo join image using (image_id)
        where mask_id is not null and (concept_id = any($1) or (image_id = any($2) and concept_id is not null))
        "#,
        &concepts.iter().map(|id| id.0).collect::<Vec<_>>(),
        &images.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    let objects = rows.into_iter().map(|row| RemovedObject {
        key: StorageKey::photo(row.concept_id, row.mask_id),
        size_bytes: row.mask_size_bytes,
    });
    Ok(objects.collect())
}

/// Counts the jobs of each kind among these.
pub async fn count_kinds(
    db: impl PgExecutor<'_>,
    jobs: &[JobId],
) -> sqlx::Result<Vec<(JobKind, i64)>> {
    let rows = sqlx::query!(
        r#"select kind as "kind: JobKind", count(*) as "count!" from job where job_id = any($1) group by kind"#,
        &uuids(jobs),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.kind, row.count)).collect())
}

/// Removes deltas. None of them may be a concept's current one: [`super::promotion::retire`].
pub async fn remove_deltas(db: impl PgExecutor<'_>, deltas: &[DeltaId]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = deltas.iter().map(|id| id.0).collect();
    sqlx::query!("delete from delta where delta_id = any($1)", &ids).execute(db).await?;
    Ok(())
}

/// Removes images: these, those of these samples, and the photos of these concepts. Returns how many of the latter and how
/// many others there were.
pub async fn remove_images(
    db: impl PgExecutor<'_>,
    concepts: &[ConceptId],
    samples: &[JobId],
    images: &[ImageId],
) -> sqlx::Result<(i64, i64)> {
    let row = sqlx::query!(
        r#"
        with removed as (
            delete from image where concept_id = any($1) or sample_id = any($2) or image_id = any($3)
            returning concept_id
        )
        select count(*) filter (where concept_id is not null) as "photos!",
            count(*) filter (where concept_id is null) as "others!"
        from removed
        "#,
        &concepts.iter().map(|id| id.0).collect::<Vec<_>>(),
        &uuids(samples),
        &images.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_one(db)
    .await?;
    Ok((row.photos, row.others))
}

/// Removes jobs with all that belongs to them. Their deltas have to be gone. Whoever works on one of them loses its lease.
pub async fn remove_jobs(db: impl PgExecutor<'_>, jobs: &[JobId]) -> sqlx::Result<()> {
    sqlx::query!("delete from job where job_id = any($1)", &uuids(jobs)).execute(db).await?;
    Ok(())
}

/// Removes studies with their links and votes.
pub async fn remove_studies(db: impl PgExecutor<'_>, studies: &[StudyId]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = studies.iter().map(|id| id.0).collect();
    sqlx::query!("delete from preference_study where study_id = any($1)", &ids).execute(db).await?;
    Ok(())
}

/// Removes concepts. Their photos and the deltas that contain them have to be gone.
pub async fn remove_concepts(db: impl PgExecutor<'_>, concepts: &[ConceptId]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = concepts.iter().map(|id| id.0).collect();
    sqlx::query!("delete from concept where concept_id = any($1)", &ids).execute(db).await?;
    Ok(())
}

fn uuids(jobs: &[JobId]) -> Vec<Uuid> {
    jobs.iter().map(|id| id.0).collect()
}
