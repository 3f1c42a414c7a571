//! Tables `image_set` and `image_set_image`: captioned images, whose files are one object per set.
//!
//! The class images of a base model are everybody's: each project finds them beside its own sets.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use super::{Page, record_of};
use crate::domain::id::{ImageSetId, ProjectId};
use crate::domain::image_set::{Generation, ImageSet, ImageSetSource, SetImage, Verdicts};
use crate::domain::page::Order;
use crate::domain::record::{ExternalId, Metadata};

struct ImageSetRow {
    image_set_id: ImageSetId,
    name: String,
    source: ImageSetSource,
    digest: String,
    size_bytes: i64,
    image_count: i32,
    caption_count: i32,
    verdicts: Json<Verdicts>,
    generation: Option<Json<Generation>>,
    created_at: DateTime<Utc>,
    revision: i64,
    updated_at: DateTime<Utc>,
    metadata: Json<Metadata>,
    external_id: Option<ExternalId>,
}

impl From<ImageSetRow> for ImageSet {
    fn from(row: ImageSetRow) -> Self {
        Self {
            image_set_id: row.image_set_id,
            name: row.name,
            source: row.source,
            digest: row.digest.into(),
            size_bytes: row.size_bytes,
            image_count: row.image_count,
            caption_count: row.caption_count,
            verdicts: row.verdicts.0,
            generation: row.generation.map(|generation| generation.0),
            created_at: row.created_at,
            record: record_of(row.revision, row.updated_at, row.metadata, row.external_id),
        }
    }
}

/// Records a set whose object is already stored. Returns whether it was recorded: the set of a base model, or of a
/// project's generation, is recorded once.
pub async fn record(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    set: &ImageSet,
) -> sqlx::Result<bool> {
    let generation_digest = set.generation.as_ref().map(Generation::digest);
    let done = sqlx::query!(
        "insert into image_set (image_set_id, name, source, digest, size_bytes, image_count, caption_count, verdicts,
            generation, generation_digest, created_at, updated_at, project_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12)
        on conflict do nothing",
        set.image_set_id.0,
        set.name,
        set.source as ImageSetSource,
        set.digest.as_str(),
        set.size_bytes,
        set.image_count,
        set.caption_count,
        Json(&set.verdicts) as Json<&Verdicts>,
        set.generation.as_ref().map(Json) as Option<Json<&Generation>>,
        generation_digest.as_deref(),
        set.created_at,
        project_id.0,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Until the transaction ends, nobody else records or collects a set with this digest.
///
/// Sets with the same content share an object. Whoever records one makes sure under this lock that the object is there, and
/// whoever deletes the object makes sure under it that no set has it.
pub async fn lock_object(db: impl PgExecutor<'_>, digest: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('image set ' || $1, 0)) is null as locked",
        digest
    )
    .fetch_one(db)
    .await?;
    Ok(())
}

/// Records the images of a set.
pub async fn record_images(
    db: impl PgExecutor<'_>,
    image_set_id: ImageSetId,
    images: &[SetImage],
) -> sqlx::Result<()> {
    let indices: Vec<i32> = images.iter().map(|image| image.index).collect();
    let paths: Vec<&str> = images.iter().map(|image| image.path.as_str()).collect();
    let captions: Vec<&str> = images.iter().map(|image| image.caption.as_str()).collect();
    let digests: Vec<&str> = images.iter().map(|image| image.sha256.as_str()).collect();
    let positions: Vec<i64> = images.iter().map(|image| image.position).collect();
    let sizes: Vec<i64> = images.iter().map(|image| image.size_bytes).collect();
    sqlx::query!(
        "insert into image_set_image (image_set_id, index, path, caption, sha256, position, size_bytes)
        select $1, * from unnest($2::integer[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])",
        image_set_id.0,
        &indices,
        &paths as &[&str],
        &captions as &[&str],
        &digests as &[&str],
        &positions,
        &sizes,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Returns one set that a project can use.
pub async fn find(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    image_set_id: ImageSetId,
) -> sqlx::Result<Option<ImageSet>> {
    let row = sqlx::query_as!(
        ImageSetRow,
        r#"
        select image_set_id as "image_set_id: ImageSetId", name, source as "source: ImageSetSource", digest, size_bytes,
            image_count, caption_count, verdicts as "verdicts: Json<Verdicts>",
            generation as "generation: Json<Generation>", created_at, revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from image_set where image_set_id = $1 and (project_id = $2 or source = 'base_model')
        "#,
        image_set_id.0,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(ImageSet::from))
}

/// Finds a set that a project can use by the digest of its object: the oldest of those that have it.
pub async fn find_by_digest(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    digest: &str,
) -> sqlx::Result<Option<ImageSet>> {
    let row = sqlx::query_as!(
        ImageSetRow,
        r#"
        select image_set_id as "image_set_id: ImageSetId", name, source as "source: ImageSetSource", digest, size_bytes,
            image_count, caption_count, verdicts as "verdicts: Json<Verdicts>",
            generation as "generation: Json<Generation>", created_at, revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from image_set where digest = $1 and (project_id = $2 or source = 'base_model')
        order by image_set_id limit 1
        "#,
        digest,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(ImageSet::from))
}

/// Finds the set that a generation has made for a project, by the digest of the generation.
pub async fn find_generated(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    generation_digest: &str,
) -> sqlx::Result<Option<ImageSet>> {
    let row = sqlx::query_as!(
        ImageSetRow,
        r#"
        select image_set_id as "image_set_id: ImageSetId", name, source as "source: ImageSetSource", digest, size_bytes,
            image_count, caption_count, verdicts as "verdicts: Json<Verdicts>",
            generation as "generation: Json<Generation>", created_at, revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from image_set where generation_digest = $1 and project_id = $2
        "#,
        generation_digest,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(ImageSet::from))
}

/// Lists the sets that a project can use: all, or the one with this external id.
pub async fn list(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    external_id: Option<&ExternalId>,
    page: Page,
) -> sqlx::Result<Vec<ImageSet>> {
    macro_rules! listed {
        ($direction:tt) => {
            sqlx::query_as!(
                ImageSetRow,
                r#"
                select image_set_id as "image_set_id: ImageSetId", name, source as "source: ImageSetSource", digest,
                    size_bytes, image_count, caption_count, verdicts as "verdicts: Json<Verdicts>",
                    generation as "generation: Json<Generation>", created_at, revision, updated_at,
                    metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
                from image_set
                where (project_id = $1 or source = 'base_model') and image_set_id > $2 and image_set_id < $3
                    and created_at > $4 and created_at < $5 and ($6::text is null or external_id = $6)
                order by image_set_id "# + $direction + " limit $7",
                project_id.0,
                page.above(),
                page.below(),
                page.created_after(),
                page.created_before(),
                external_id.map(ExternalId::as_str),
                page.limit,
            )
            .fetch_all(db)
            .await?
        };
    }
    let rows = match page.order {
        Order::Desc => listed!("desc"),
        Order::Asc => listed!("asc"),
    };
    Ok(rows.into_iter().map(ImageSet::from).collect())
}

/// Lists the images of a set after a place, in order.
pub async fn list_images(
    db: impl PgExecutor<'_>,
    image_set_id: ImageSetId,
    after: i32,
    limit: i64,
) -> sqlx::Result<Vec<SetImage>> {
    sqlx::query_as!(
        SetImage,
        r#"
        select index, path, caption, sha256, position, size_bytes
        from image_set_image where image_set_id = $1 and index > $2
        order by index
        limit $3
        "#,
        image_set_id.0,
        after,
        limit,
    )
    .fetch_all(db)
    .await
}

/// Returns the images at these places of a set, in the order of the places.
pub async fn images_at(
    db: impl PgExecutor<'_>,
    image_set_id: ImageSetId,
    places: &[i32],
) -> sqlx::Result<Vec<SetImage>> {
    sqlx::query_as!(
        SetImage,
        r#"
        select index, path, caption, sha256, position, size_bytes
        from image_set_image where image_set_id = $1 and index = any($2)
        order by index
        "#,
        image_set_id.0,
        places,
    )
    .fetch_all(db)
    .await
}

/// Returns the captions of a set, in order.
pub async fn captions(
    db: impl PgExecutor<'_>,
    image_set_id: ImageSetId,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "select caption from image_set_image where image_set_id = $1 order by index",
        image_set_id.0,
    )
    .fetch_all(db)
    .await
}

/// Removes a project's set and its images from the catalog.
pub async fn delete(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    image_set_id: ImageSetId,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from image_set where image_set_id = $1 and project_id = $2",
        image_set_id.0,
        project_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}
