//! Image sets: captioned images that trainings are regularized with.

pub(super) mod retrieval;

use std::fs::File;

use sqlx::PgExecutor;

use super::download::{Downloadable, Owner};
use super::quota::Need;
use super::removal::Removed;
use super::{App, Caller, Precondition, Refusal};
use crate::class_images::{ClassImageSet, PackedSet};
use crate::db;
use crate::domain::code::Code;
use crate::domain::id::{ImageSetId, ProjectId};
use crate::domain::image_set::{ImageSet, ImageSetSource, MAX_SET_NAME, SetImage, Verdicts};
use crate::domain::invalid::{FieldError, Invalid};
use crate::domain::labelled::Labelled;
use crate::domain::page::{Page, PageOf};
use crate::domain::record::ExternalId;
use crate::image_archive::ImageArchive;

pub use retrieval::{Retrieval, Retrieve, RetrievedCaption};

/// The name of a set whose upload has none.
const DEFAULT_NAME: &str = "image set";

impl App {
    /// Adds the images of a zip archive as a set.
    ///
    /// - `archive`: the uploaded file, open for reading
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the archive has no image, or anything that would change a caption unseen.
    pub async fn add_image_set(
        &self,
        caller: &Caller,
        name: Option<String>,
        archive: File,
    ) -> Result<ImageSet, Refusal> {
        let name = check_name(name)?;
        // An archive is unpacked in memory: one at a time.
        let permit = self.archives.clone().acquire_owned().await.map_err(Refusal::internal)?;
        let unpacked = tokio::task::spawn_blocking(move || {
            let ImageArchive { files, verdicts } = ImageArchive::read(archive)?;
            let packed = ClassImageSet::from_files(files).pack().map_err(Refusal::internal)?;
            Ok::<(PackedSet, Verdicts), Refusal>((packed, verdicts))
        });
        let (packed, verdicts) = unpacked.await.map_err(Refusal::internal)??;
        self.storage.write(&packed.reference.storage_key, packed.bytes.clone()).await?;
        drop(permit);
        let set = packed.row(name, ImageSetSource::Uploaded, verdicts);
        self.record_set(Some(caller), &set, &packed).await?;
        self.index_ahead(&set, packed.images.into_iter().map(|image| image.caption).collect());
        Ok(set)
    }

    /// Lists the class images of a base model as a set of all projects, unless they are listed.
    ///
    /// # Errors
    /// If the set cannot be read, or the database cannot be reached.
    pub async fn list_class_images(&self, class_images: &ClassImageSet) -> Result<(), Refusal> {
        let Some(reference) = &self.model.class_image_set else { return Ok(()) };
        if db::image_set::find_by_digest(&self.db, ProjectId::DEFAULT, &reference.digest)
            .await?
            .is_some_and(|set| set.source == ImageSetSource::BaseModel)
        {
            return Ok(());
        }
        let class_images = class_images.clone();
        let packed = tokio::task::spawn_blocking(move || class_images.pack());
        let packed = packed.await.map_err(Refusal::internal)?.map_err(Refusal::internal)?;
        let name = format!("class images of {}", self.model.name);
        let set = packed.row(name, ImageSetSource::BaseModel, Verdicts::default());
        self.record_set(None, &set, &packed).await
    }

    /// Records a set and its images, unless it is of a kind that is recorded once and it is there.
    ///
    /// - `caller`: whose it is; `None` for the base model's
    async fn record_set(
        &self,
        caller: Option<&Caller>,
        set: &ImageSet,
        packed: &PackedSet,
    ) -> Result<(), Refusal> {
        let project_id = caller.map_or(ProjectId::DEFAULT, Caller::project_id);
        let mut tx = self.db.begin().await?;
        if let Some(caller) = caller {
            self.reserve(&mut tx, caller, Need::Bytes(set.size_bytes)).await?;
        }
        self.claim_key(&mut tx, set.image_set_id).await?;
        db::image_set::lock_object(&mut *tx, &set.digest).await?;
        if db::image_set::record(&mut *tx, project_id, set).await? {
            db::image_set::record_images(&mut *tx, set.image_set_id, &packed.images).await?;
            // It was there, or was written just now. If it was an old one of a deleted set, it may have been collected.
            let key = &packed.reference.storage_key;
            if !self.storage.exists(key).await? {
                self.storage.write(key, packed.bytes.clone()).await?;
            }
        }
        Ok(tx.commit().await?)
    }

    /// Returns a set by its id or digest.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none.
    pub async fn image_set(&self, caller: &Caller, name: &str) -> Result<ImageSet, Refusal> {
        let set = find_image_set(&self.db, caller.project_id(), name).await?;
        set.ok_or_else(|| Refusal::not_found("image set", name))
    }

    /// Lists the sets that a project can use: all, or the one with this external id.
    pub async fn image_sets(
        &self,
        caller: &Caller,
        external_id: Option<&ExternalId>,
        page: Page,
    ) -> Result<PageOf<ImageSet>, Refusal> {
        let (project_id, more) = (caller.project_id(), page.with_one_more());
        Ok(page.cut(db::image_set::list(&self.db, project_id, external_id, more).await?))
    }

    /// Lists the images of a set after a place, in their order, and whether there are more.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such set.
    pub async fn images_of_set(
        &self,
        caller: &Caller,
        name: &str,
        after: i32,
        limit: i64,
    ) -> Result<PageOf<SetImage>, Refusal> {
        let set = self.image_set(caller, name).await?;
        let page = Page::newest(limit);
        let images = db::image_set::list_images(&self.db, set.image_set_id, after, limit + 1);
        Ok(page.cut(images.await?))
    }

    /// Returns one image of a set.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such set, or no image at this place of it.
    pub async fn image_of_set(
        &self,
        caller: &Caller,
        name: &str,
        index: i32,
    ) -> Result<(ImageSet, SetImage), Refusal> {
        let set = self.image_set(caller, name).await?;
        let images = db::image_set::images_at(&self.db, set.image_set_id, &[index]).await?;
        let image = images.into_iter().next();
        let image = image.ok_or_else(|| Refusal::not_found("image", format!("{name}/{index}")))?;
        Ok((set, image))
    }

    /// The file of one image of a set, as it was uploaded.
    pub fn file_of_set(&self, _caller: &Caller, set: &ImageSet, image: &SetImage) -> Downloadable {
        let of = Owner::new("image set", set.image_set_id);
        let key = &set.reference().storage_key;
        self.downloadable(of, key, image.position.unsigned_abs(), image.size_bytes, &image.sha256)
    }

    /// Removes a set from the catalog. Its object stays while another set or a job that has not ended names it; then `vstar gc`
    /// takes it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Conflict`] for the class images of the base model that is served, and of any base model
    /// unless the caller's project is the default one, which has them; [`Refusal::PreconditionFailed`].
    pub async fn delete_image_set(
        &self,
        caller: &Caller,
        id: ImageSetId,
        precondition: &Precondition,
    ) -> Result<Removed, Refusal> {
        let project_id = caller.project_id();
        let set = db::image_set::find(&self.db, project_id, id).await?;
        let set = set.ok_or_else(|| Refusal::not_found("image set", id))?;
        let served = self.model.class_image_set.as_ref();
        if set.source == ImageSetSource::BaseModel
            && served.is_some_and(|served| served.digest == set.digest)
        {
            let detail = "these are the class images of the base model that is served: they stay";
            return Err(Refusal::Conflict(FieldError::new("", Code::ImageSetInUse, detail)));
        }
        let mut tx = self.db.begin().await?;
        match self.hold(&mut tx, caller, Labelled::ImageSet(id), precondition).await {
            Err(Refusal::NotFound { .. }) if set.source == ImageSetSource::BaseModel => {
                let detail = "these are the class images of a base model, which all projects can use: they stay";
                return Err(Refusal::Conflict(FieldError::new("", Code::ImageSetInUse, detail)));
            }
            held => held?,
        };
        db::image_set::delete(&mut *tx, project_id, id).await?;
        tx.commit().await?;
        Ok(Removed { image_sets: 1, size_bytes: set.size_bytes, ..Removed::default() })
    }
}

/// Finds a set that a project can use, by its id or digest.
pub(super) async fn find_image_set(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    name: &str,
) -> sqlx::Result<Option<ImageSet>> {
    match name.parse::<ImageSetId>() {
        Ok(id) => db::image_set::find(db, project_id, id).await,
        Err(_) if name.contains('\0') => Ok(None), // Postgres takes no U+0000
        Err(_) => db::image_set::find_by_digest(db, project_id, name).await,
    }
}

fn check_name(name: Option<String>) -> Result<String, Invalid> {
    let name = name.map_or_else(String::new, |name| name.trim().to_owned());
    if name.is_empty() {
        return Ok(DEFAULT_NAME.to_owned());
    }
    if name.chars().count() > MAX_SET_NAME || name.chars().any(char::is_control) {
        let detail = format!("a name has at most {MAX_SET_NAME} characters, and no line breaks");
        return Err(FieldError::new("/name", Code::InvalidValue, detail).into());
    }
    Ok(name)
}
