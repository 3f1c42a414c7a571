//! Table `photo`: captions, masks and measures of photos.

use std::collections::HashMap;

use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::domain::id::{ImageId, ProjectId};
use crate::domain::photo::{Mask, Measures, PhotoNotes, Thumbnail};

struct PhotoRow {
    image_id: ImageId,
    caption: Option<String>,
    mask_id: Option<ImageId>,
    mask_sha256: Option<String>,
    mask_size_bytes: Option<i64>,
    measures: Option<Json<Measures>>,
    thumbnail: Option<Vec<u8>>,
}

impl From<PhotoRow> for PhotoNotes {
    fn from(row: PhotoRow) -> Self {
        let mask = match (row.mask_id, row.mask_sha256, row.mask_size_bytes) {
            (Some(mask_id), Some(sha256), Some(size_bytes)) => {
                Some(Mask { mask_id, sha256: sha256.into(), size_bytes })
            }
            _ => None,
        };
        let measured = match (row.measures, row.thumbnail) {
            (Some(Json(measures)), Some(thumbnail)) => Some((measures, Thumbnail(thumbnail))),
            _ => None,
        };
        Self { caption: row.caption, mask, measured }
    }
}

/// Records what is known about a photo, in place of what was known.
pub async fn record(
    db: impl PgExecutor<'_>,
    image_id: ImageId,
    notes: &PhotoNotes,
) -> sqlx::Result<()> {
    let mask = notes.mask.as_ref();
    let measured = notes.measured.as_ref();
    sqlx::query!(
        "insert into photo (image_id, caption, mask_id, mask_sha256, mask_size_bytes, measures, thumbnail)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (image_id) do update set caption = $2, mask_id = $3, mask_sha256 = $4, mask_size_bytes = $5,
            measures = $6, thumbnail = $7",
        image_id.0,
        notes.caption,
        mask.map(|mask| mask.mask_id.0),
        mask.map(|mask| mask.sha256.as_str()),
        mask.map(|mask| mask.size_bytes),
        measured.map(|(measures, _)| Json(measures)) as _,
        measured.map(|(_, thumbnail)| thumbnail.0.as_slice()),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Records what was measured of a photo that had not been measured.
pub async fn record_measures(
    db: impl PgExecutor<'_>,
    image_id: ImageId,
    (measures, thumbnail): &(Measures, Thumbnail),
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into photo (image_id, measures, thumbnail) values ($1, $2, $3)
        on conflict (image_id) do update set measures = $2, thumbnail = $3",
        image_id.0,
        Json(measures) as _,
        thumbnail.0.as_slice(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// What is known about these photos of a project. One that nothing is known about is omitted.
pub async fn of_images(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    images: &[ImageId],
) -> sqlx::Result<HashMap<ImageId, PhotoNotes>> {
    let rows = sqlx::query_as!(
        PhotoRow,
        r#"
        select image_id as "image_id: ImageId", caption, mask_id as "mask_id: ImageId", mask_sha256, mask_size_bytes,
            measures as "measures: Json<Measures>", thumbnail
        from photo
        where image_id = any($1) and project_id = $2
        "#,
        &images.iter().map(|id| id.0).collect::<Vec<_>>(),
        project_id.0,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.image_id, row.into())).collect())
}
