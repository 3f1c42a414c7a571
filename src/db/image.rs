//! Table `image`: photos of concepts, uploads to start samples from, and images of samples.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use super::{Page, record_of};
use crate::domain::composition::UsedRegion;
use crate::domain::id::{ConceptId, ImageId, ProjectId, SampleId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::page::Order;
use crate::domain::record::{ExternalId, Metadata};

/// Constraint that is broken if a concept gets the same photo twice.
pub const PHOTO_IS_UNIQUE: &str = "photo_of_a_concept_is_unique";

struct ImageRow {
    image_id: ImageId,
    concept_id: Option<ConceptId>,
    file_name: Option<String>,
    sample_id: Option<SampleId>,
    index: Option<i32>,
    width: i32,
    height: i32,
    size_bytes: i64,
    sha256: String,
    storage_key: String,
    created_at: DateTime<Utc>,
    regions: Option<Json<Vec<UsedRegion>>>,
    revision: i64,
    updated_at: DateTime<Utc>,
    metadata: Json<Metadata>,
    external_id: Option<ExternalId>,
}

impl From<ImageRow> for Image {
    fn from(row: ImageRow) -> Self {
        let source = match (row.concept_id, row.sample_id, row.index) {
            (Some(concept_id), _, _) => ImageSource::Photo { concept_id, file_name: row.file_name },
            (None, Some(sample_id), Some(index)) => ImageSource::Sample { sample_id, index },
            (None, None, _) => ImageSource::Upload { file_name: row.file_name },
            (None, Some(_), None) => unreachable!("constraint a_sampled_image_has_an_index"),
        };
        Self {
            image_id: row.image_id,
            source,
            width: row.width,
            height: row.height,
            size_bytes: row.size_bytes,
            sha256: row.sha256.into(),
            storage_key: row.storage_key.into(),
            created_at: row.created_at,
            regions: row.regions.map_or_else(Vec::new, |Json(regions)| regions),
            record: record_of(row.revision, row.updated_at, row.metadata, row.external_id),
        }
    }
}

/// Records an image whose object is already stored.
///
/// - `project_id`: whose it is; the schema takes that of the concept or the sample where the image belongs to one
pub async fn record(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    image: &Image,
) -> sqlx::Result<()> {
    let (concept_id, file_name, sample_id, index) = match &image.source {
        ImageSource::Photo { concept_id, file_name } => {
            (Some(concept_id.0), file_name.as_deref(), None, None)
        }
        ImageSource::Upload { file_name } => (None, file_name.as_deref(), None, None),
        ImageSource::Sample { sample_id, index } => (None, None, Some(sample_id.0), Some(*index)),
    };
    let regions = (!image.regions.is_empty()).then_some(Json(&image.regions));
    sqlx::query!(
        "insert into image (image_id, concept_id, file_name, sample_id, index, width, height, size_bytes, sha256,
            storage_key, created_at, updated_at, regions, project_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12, $13)",
        image.image_id.0,
        concept_id,
        file_name,
        sample_id,
        index,
        image.width,
        image.height,
        image.size_bytes,
        image.sha256.as_str(),
        image.storage_key.as_str(),
        image.created_at,
        regions as _,
        project_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Gives an image a new revision, because something that is shown with it has changed.
pub async fn touch(db: impl PgExecutor<'_>, image_id: ImageId) -> sqlx::Result<()> {
    sqlx::query!(
        "update image set updated_at = clock_timestamp() where image_id = $1",
        image_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Returns one image of a project.
pub async fn find(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    image_id: ImageId,
) -> sqlx::Result<Option<Image>> {
    let row = sqlx::query_as!(
        ImageRow,
        r#"
        select image_id as "image_id: ImageId", concept_id as "concept_id: ConceptId", file_name,
            sample_id as "sample_id: SampleId", index, width, height, size_bytes, sha256, storage_key, created_at,
            regions as "regions: Json<Vec<UsedRegion>>", revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from image where image_id = $1 and project_id = $2
        "#,
        image_id.0,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Image::from))
}

/// Finds an image of a project by the digest of its PNG: the oldest of those that have it.
pub async fn find_by_digest(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    sha256: &str,
) -> sqlx::Result<Option<Image>> {
    let row = sqlx::query_as!(
        ImageRow,
        r#"
        select image_id as "image_id: ImageId", concept_id as "concept_id: ConceptId", file_name,
            sample_id as "sample_id: SampleId", index, width, height, size_bytes, sha256, storage_key, created_at,
            regions as "regions: Json<Vec<UsedRegion>>", revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from image where sha256 = $1 and project_id = $2
        order by image_id limit 1
        "#,
        sha256,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Image::from))
}

/// Lists the photos of a concept: all, or the one with this external id.
pub async fn list_of_concept(
    db: impl PgExecutor<'_>,
    concept_id: ConceptId,
    external_id: Option<&ExternalId>,
    page: Page,
) -> sqlx::Result<Vec<Image>> {
    macro_rules! listed {
        ($direction:tt) => {
            sqlx::query_as!(
                ImageRow,
                r#"
                select image_id as "image_id: ImageId", concept_id as "concept_id: ConceptId", file_name,
                    sample_id as "sample_id: SampleId", index, width, height, size_bytes, sha256, storage_key, created_at,
                    regions as "regions: Json<Vec<UsedRegion>>", revision, updated_at,
                    metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
                from image
                where concept_id = $1 and image_id > $2 and image_id < $3 and created_at > $4 and created_at < $5
                    and ($6::text is null or external_id = $6)
                order by image_id "# + $direction + " limit $7",
                concept_id.0,
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
    Ok(rows.into_iter().map(Image::from).collect())
}

/// Lists all photos of these concepts, oldest first.
pub async fn of_concepts(
    db: impl PgExecutor<'_>,
    concepts: &[ConceptId],
) -> sqlx::Result<Vec<Image>> {
    let rows = sqlx::query_as!(
        ImageRow,
        r#"
        select image_id as "image_id: ImageId", concept_id as "concept_id: ConceptId", file_name,
            sample_id as "sample_id: SampleId", index, width, height, size_bytes, sha256, storage_key, created_at,
            regions as "regions: Json<Vec<UsedRegion>>", revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from image
        where concept_id = any($1)
        order by image_id
        "#,
        &concepts.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Image::from).collect())
}

/// Lists all images of these samples, in the order of their indices.
pub async fn of_samples(db: impl PgExecutor<'_>, samples: &[SampleId]) -> sqlx::Result<Vec<Image>> {
    let rows = sqlx::query_as!(
        ImageRow,
        r#"
        select image_id as "image_id: ImageId", concept_id as "concept_id: ConceptId", file_name,
            sample_id as "sample_id: SampleId", index, width, height, size_bytes, sha256, storage_key, created_at,
            regions as "regions: Json<Vec<UsedRegion>>", revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from image
        where sample_id = any($1)
        order by sample_id, index
        "#,
        &samples.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Image::from).collect())
}

/// The photos of a concept in short.
#[derive(Clone, Copy, Debug)]
pub struct PhotosInShort {
    pub concept_id: ConceptId,
    pub count: i64,
    /// The oldest.
    pub first: ImageId,
}

/// Counts the photos of each of these concepts; one without photos is omitted.
pub async fn count_of_concepts(
    db: impl PgExecutor<'_>,
    concepts: &[ConceptId],
) -> sqlx::Result<Vec<PhotosInShort>> {
    sqlx::query_as!(
        PhotosInShort,
        r#"
        select concept_id as "concept_id!: ConceptId", count(*) as "count!",
            (array_agg(image_id order by image_id))[1] as "first!: ImageId"
        from image where concept_id = any($1) group by concept_id
        "#,
        &concepts.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await
}
