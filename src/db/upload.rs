//! Table `upload`: files on their way by signed URLs.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use crate::domain::id::{ConceptId, ImageId, ProjectId, UploadId};
use crate::domain::upload::Upload;

struct UploadRow {
    upload_id: UploadId,
    concept_id: Option<ConceptId>,
    caption: Option<String>,
    file_name: String,
    size_bytes: i64,
    sha256: String,
    image_id: Option<ImageId>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
}

impl From<UploadRow> for Upload {
    fn from(row: UploadRow) -> Self {
        Self {
            upload_id: row.upload_id,
            concept_id: row.concept_id,
            caption: row.caption,
            file_name: row.file_name,
            size_bytes: row.size_bytes,
            sha256: row.sha256.into(),
            image_id: row.image_id,
            created_at: row.created_at,
            expires_at: row.expires_at,
            completed_at: row.completed_at,
        }
    }
}

/// Records an announced file.
///
/// - `token_sha256`: of the URL's token, if the service takes the file itself
pub async fn record(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    upload: &Upload,
    token_sha256: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into upload (upload_id, project_id, concept_id, caption, file_name, size_bytes, sha256, token_sha256,
            created_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        upload.upload_id.0,
        project_id.0,
        upload.concept_id.map(|id| id.0),
        upload.caption,
        upload.file_name,
        upload.size_bytes,
        upload.sha256.as_str(),
        token_sha256,
        upload.created_at,
        upload.expires_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Returns an upload of a project.
pub async fn find(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    upload_id: UploadId,
) -> sqlx::Result<Option<Upload>> {
    let row = sqlx::query_as!(
        UploadRow,
        r#"
        select upload_id as "upload_id: UploadId", concept_id as "concept_id: ConceptId", caption, file_name, size_bytes,
            sha256, image_id as "image_id: ImageId", created_at, expires_at, completed_at
        from upload where upload_id = $1 and project_id = $2
        "#,
        upload_id.0,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Upload::from))
}

/// The same, locked until the transaction ends: an upload becomes one image, however often it is completed at once.
pub async fn lock(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    upload_id: UploadId,
) -> sqlx::Result<Option<Upload>> {
    let row = sqlx::query_as!(
        UploadRow,
        r#"
        select upload_id as "upload_id: UploadId", concept_id as "concept_id: ConceptId", caption, file_name, size_bytes,
            sha256, image_id as "image_id: ImageId", created_at, expires_at, completed_at
        from upload where upload_id = $1 and project_id = $2
        for update
        "#,
        upload_id.0,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Upload::from))
}

/// Finds the upload of a URL's token, whatever project it belongs to: the token is the right to send the file.
pub async fn find_by_token(
    db: impl PgExecutor<'_>,
    token_sha256: &str,
) -> sqlx::Result<Option<Upload>> {
    let row = sqlx::query_as!(
        UploadRow,
        r#"
        select upload_id as "upload_id: UploadId", concept_id as "concept_id: ConceptId", caption, file_name, size_bytes,
            sha256, image_id as "image_id: ImageId", created_at, expires_at, completed_at
        from upload where token_sha256 = $1
        "#,
        token_sha256,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Upload::from))
}

/// Records what an upload has become.
pub async fn complete(
    db: impl PgExecutor<'_>,
    upload_id: UploadId,
    image_id: ImageId,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update upload set image_id = $2, completed_at = now() where upload_id = $1",
        upload_id.0,
        image_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Those of these uploads that may still be completed.
pub async fn open(db: impl PgExecutor<'_>, uploads: &[UploadId]) -> sqlx::Result<Vec<UploadId>> {
    sqlx::query_scalar!(
        r#"
        select upload_id as "upload_id: UploadId" from upload
        where upload_id = any($1) and completed_at is null and expires_at > now()
        "#,
        &uploads.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await
}
