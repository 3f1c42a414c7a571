//! Tables `delta` and `delta_concept`: results of trainings and merges. They never change, except that older ones get
//! their merge pack later.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use super::{Page, record_of};
use crate::domain::concept::{ClassNoun, ConceptWords, Handle, ModifierToken};
use crate::domain::delta::{Delta, DeltaConcept};
use crate::domain::digest::Digest;
use crate::domain::id::{ConceptId, DeltaId, JobId, ProjectId};
use crate::domain::job::JobKind;
use crate::domain::page::Order;
use crate::domain::record::{ExternalId, Metadata};
use crate::domain::storage_key::StorageKey;

/// A delta that has just been stored.
#[derive(Debug)]
pub struct NewDelta<'a> {
    pub delta_id: DeltaId,
    pub job_id: JobId,
    pub base_digest: &'a str,
    pub storage_key: &'a str,
    pub size_bytes: i64,
    pub sha256: &'a str,
}

/// Records a delta whose object is already stored, for its job's project. Its merge pack comes later.
pub async fn record(db: impl PgExecutor<'_>, delta: NewDelta<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into delta (delta_id, job_id, base_digest, storage_key, size_bytes, sha256)
        values ($1, $2, $3, $4, $5, $6)",
        delta.delta_id.0,
        delta.job_id.0,
        delta.base_digest,
        delta.storage_key,
        delta.size_bytes,
        delta.sha256,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Records which concepts a delta contains, in their order.
pub async fn record_concepts(
    db: impl PgExecutor<'_>,
    delta_id: DeltaId,
    concepts: &[ConceptId],
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into delta_concept (delta_id, concept_id, position)
        select $1, concept_id, position from unnest($2::uuid[]) with ordinality as given (concept_id, position)",
        delta_id.0,
        &concepts.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .execute(db)
    .await?;
    Ok(())
}

struct DeltaRow {
    delta_id: DeltaId,
    job_id: JobId,
    made_by: JobKind,
    base_digest: String,
    storage_key: String,
    size_bytes: i64,
    sha256: String,
    pack_key: Option<String>,
    pack_error: Option<String>,
    created_at: DateTime<Utc>,
    revision: i64,
    updated_at: DateTime<Utc>,
    metadata: Json<Metadata>,
    external_id: Option<ExternalId>,
}

impl From<DeltaRow> for Delta {
    fn from(row: DeltaRow) -> Self {
        Self {
            delta_id: row.delta_id,
            job_id: row.job_id,
            made_by: row.made_by,
            base_digest: row.base_digest.into(),
            storage_key: row.storage_key.into(),
            size_bytes: row.size_bytes,
            sha256: row.sha256.into(),
            pack_key: row.pack_key.map(StorageKey::from),
            pack_error: row.pack_error,
            created_at: row.created_at,
            record: record_of(row.revision, row.updated_at, row.metadata, row.external_id),
        }
    }
}

/// Finds deltas of a project by id, in no particular order.
pub async fn find(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    deltas: &[DeltaId],
) -> sqlx::Result<Vec<Delta>> {
    let rows = sqlx::query_as!(
        DeltaRow,
        r#"
        select delta_id as "delta_id: DeltaId", job_id as "job_id: JobId", kind as "made_by: JobKind", delta.base_digest,
            storage_key, size_bytes, sha256, pack_key, pack_error, delta.created_at, delta.revision, delta.updated_at,
            delta.metadata as "metadata: Json<Metadata>", delta.external_id as "external_id: ExternalId"
        from delta join job using (job_id)
        where delta_id = any($1) and delta.project_id = $2
        "#,
        &deltas.iter().map(|id| id.0).collect::<Vec<_>>(),
        project_id.0,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Delta::from).collect())
}

/// Finds deltas by id for a worker, which works for all projects.
pub async fn find_for_worker(
    db: impl PgExecutor<'_>,
    deltas: &[DeltaId],
) -> sqlx::Result<Vec<Delta>> {
    let rows = sqlx::query_as!(
        DeltaRow,
        r#"
        select delta_id as "delta_id: DeltaId", job_id as "job_id: JobId", kind as "made_by: JobKind", delta.base_digest,
            storage_key, size_bytes, sha256, pack_key, pack_error, delta.created_at, delta.revision, delta.updated_at,
            delta.metadata as "metadata: Json<Metadata>", delta.external_id as "external_id: ExternalId"
        from delta join job using (job_id)
        where delta_id = any($1)
        "#,
        &deltas.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Delta::from).collect())
}

/// Finds deltas of a project by the digests of their objects, oldest first: several deltas can have one.
pub async fn find_by_digest(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    sha256: &[Digest],
) -> sqlx::Result<Vec<Delta>> {
    let rows = sqlx::query_as!(
        DeltaRow,
        r#"
        select delta_id as "delta_id: DeltaId", job_id as "job_id: JobId", kind as "made_by: JobKind", delta.base_digest,
            storage_key, size_bytes, sha256, pack_key, pack_error, delta.created_at, delta.revision, delta.updated_at,
            delta.metadata as "metadata: Json<Metadata>", delta.external_id as "external_id: ExternalId"
        from delta join job using (job_id)
        where sha256 = any($1) and delta.project_id = $2
        order by delta_id
        "#,
        &sha256.iter().map(|digest| digest.as_str().to_owned()).collect::<Vec<_>>(),
        project_id.0,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Delta::from).collect())
}

/// Which deltas of a list are wanted.
#[derive(Clone, Debug, Default)]
pub struct DeltaFilter {
    /// Those that contain it.
    pub concept: Option<ConceptId>,
    /// Those whose object has it.
    pub sha256: Option<Digest>,
    pub external_id: Option<ExternalId>,
}

/// Lists the deltas of a project.
pub async fn list(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    filter: &DeltaFilter,
    page: Page,
) -> sqlx::Result<Vec<Delta>> {
    macro_rules! listed {
        ($from:tt, $filters:tt, $id:tt, $direction:tt) => {
            sqlx::query_as!(
                DeltaRow,
                r#"
                select delta_id as "delta_id: DeltaId", job_id as "job_id: JobId", kind as "made_by: JobKind",
                    delta.base_digest, storage_key, size_bytes, sha256, pack_key, pack_error, delta.created_at,
                    delta.revision, delta.updated_at, delta.metadata as "metadata: Json<Metadata>",
                    delta.external_id as "external_id: ExternalId"
                from "# + $from + " and " + $filters + " and " + $id + " > $2 and " + $id + " < $3
                    and delta.created_at > $4 and delta.created_at < $5 order by " + $id + " " + $direction + " limit $8",
                project_id.0,
                page.above(),
                page.below(),
                page.created_after(),
                page.created_before(),
                filter.concept.map(|id| id.0),
                filter.external_id.as_ref().map(ExternalId::as_str),
                page.limit,
                filter.sha256.as_ref().map(Digest::as_str),
            )
            .fetch_all(db)
            .await?
        };
        (all, $direction:tt) => {
            listed!(
                "delta join job using (job_id) where delta.project_id = $1",
                "$6::uuid is null and $7::text is null and $9::text is null",
                "delta_id",
                $direction
            )
        };
        (concept, $direction:tt) => {
            listed!(
                "delta_concept join delta using (delta_id) join job using (job_id)
                where concept_id = $6 and delta.project_id = $1",
                "$7::text is null and $9::text is null",
                "delta_concept.delta_id",
                $direction
            )
        };
        (named, $direction:tt) => {
            listed!(
                by,
                "delta join job using (job_id) where delta.project_id = $1 and delta.external_id = $7
                    and ($9::text is null or sha256 = $9)",
                $direction
            )
        };
        (digest, $direction:tt) => {
            listed!(
                by,
                "delta join job using (job_id) where delta.project_id = $1 and sha256 = $9 and $7::text is null",
                $direction
            )
        };
        (by, $from:tt, $direction:tt) => {
            listed!(
                $from,
                "($6::uuid is null or exists (
                    select from delta_concept as its where its.delta_id = delta.delta_id and concept_id = $6
                ))",
                "delta_id",
                $direction
            )
        };
    }
    let DeltaFilter { concept, sha256, external_id } = filter;
    let rows = match (external_id, sha256, concept, page.order) {
        (Some(_), _, _, Order::Desc) => listed!(named, "desc"),
        (Some(_), _, _, Order::Asc) => listed!(named, "asc"),
        (None, Some(_), _, Order::Desc) => listed!(digest, "desc"),
        (None, Some(_), _, Order::Asc) => listed!(digest, "asc"),
        (None, None, Some(_), Order::Desc) => listed!(concept, "desc"),
        (None, None, Some(_), Order::Asc) => listed!(concept, "asc"),
        (None, None, None, Order::Desc) => listed!(all, "desc"),
        (None, None, None, Order::Asc) => listed!(all, "asc"),
    };
    Ok(rows.into_iter().map(Delta::from).collect())
}

/// Lists a base model's deltas for which no merge pack was stored, newest first.
pub async fn list_without_pack(
    db: impl PgExecutor<'_>,
    base_digest: &str,
    page: Page,
) -> sqlx::Result<Vec<Delta>> {
    let rows = sqlx::query_as!(
        DeltaRow,
        r#"
        select delta_id as "delta_id: DeltaId", job_id as "job_id: JobId", kind as "made_by: JobKind", delta.base_digest,
            storage_key, size_bytes, sha256, pack_key, pack_error, delta.created_at, delta.revision, delta.updated_at,
            delta.metadata as "metadata: Json<Metadata>", delta.external_id as "external_id: ExternalId"
        from delta join job using (job_id)
        where pack_key is null and delta.base_digest = $1 and delta_id < $2
        order by delta_id desc
        limit $3
        "#,
        base_digest,
        page.below(),
        page.limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Delta::from).collect())
}

/// Adds the pack of a delta.
pub async fn add_pack(
    db: impl PgExecutor<'_>,
    delta_id: DeltaId,
    pack_key: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update delta set pack_key = $2, pack_error = null where delta_id = $1 and pack_key is null",
        delta_id.0,
        pack_key,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Notes why a delta has no pack.
pub async fn note_pack_error(
    db: impl PgExecutor<'_>,
    delta_id: DeltaId,
    reason: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update delta set pack_error = $2 where delta_id = $1 and pack_key is null",
        delta_id.0,
        reason.replace('\0', "\u{fffd}"), // Postgres takes no U+0000
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lists what these deltas contain, in the order within each delta.
pub async fn concepts_of(
    db: impl PgExecutor<'_>,
    deltas: &[DeltaId],
) -> sqlx::Result<Vec<DeltaConcept>> {
    struct DeltaConceptRow {
        delta_id: DeltaId,
        concept_id: ConceptId,
        handle: Handle,
        modifier_token: Option<ModifierToken>,
        class_noun: ClassNoun,
    }
    let rows = sqlx::query_as!(
        DeltaConceptRow,
        r#"
        select delta_id as "delta_id: DeltaId", concept_id as "concept_id: ConceptId", handle as "handle: Handle",
            modifier_token as "modifier_token: ModifierToken", class_noun as "class_noun: ClassNoun"
        from delta_concept join concept using (concept_id)
        where delta_id = any($1)
        order by delta_id, position
        "#,
        &deltas.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    let concepts = rows.into_iter().map(|row| DeltaConcept {
        delta_id: row.delta_id,
        concept_id: row.concept_id,
        handle: row.handle,
        words: ConceptWords { modifier_token: row.modifier_token, class_noun: row.class_noun },
    });
    Ok(concepts.collect())
}

/// Finds the deltas that these jobs made; a job that made none is omitted.
pub async fn of_jobs(
    db: impl PgExecutor<'_>,
    jobs: &[JobId],
) -> sqlx::Result<Vec<(JobId, DeltaId)>> {
    let rows = sqlx::query!(
        r#"
        select job_id as "job_id: JobId", delta_id as "delta_id: DeltaId" from delta where job_id = any($1)
        "#,
        &jobs.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.job_id, row.delta_id)).collect())
}
