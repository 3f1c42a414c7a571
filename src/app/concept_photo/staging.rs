//! Photos and masks whose objects are written, before and while a concept gets them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use sqlx::PgConnection;

use super::described::{DescribedPhoto, ids};
use crate::app::image::UploadedFile;
use crate::app::photo::PhotoError;
use crate::app::quota::Need;
use crate::app::{App, Caller, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::digest::Digest;
use crate::domain::id::ImageId;
use crate::domain::image::{Image, ImageSource, MAX_PHOTOS, readable_path};
use crate::domain::image_set::FileVerdict;
use crate::domain::invalid::FieldError;
use crate::domain::photo::{Finding, Mask, PhotoNotes, PhotoVerdict, findings};
use crate::domain::storage_key::StorageKey;
use crate::image_archive::PhotoArchive;

/// A photo whose object is written. The concept does not have it before [`App::add_photos`].
#[derive(Clone, Debug)]
pub struct StagedPhoto {
    pub image: Image,
    pub notes: PhotoNotes,
}

/// A mask whose object is written, with the size of its image.
#[derive(Clone, Debug)]
pub struct StagedMask {
    pub mask: Mask,
    width: u32,
    height: u32,
}

/// The path of a photo in its archive, and what became of it.
pub type ArchivedVerdict = (String, Result<StagedPhoto, PhotoError>);

impl App {
    /// Decodes a file and writes its object, or returns why the file cannot be a photo. The concept does not have it before
    /// [`Self::add_photos`].
    ///
    /// The outer error is about the request as a whole, the inner one about this file.
    pub async fn stage_photo(
        &self,
        _caller: &Caller,
        concept: &Concept,
        file: UploadedFile,
    ) -> Result<Result<StagedPhoto, PhotoError>, Refusal> {
        let photo = match self.decode(file.content).await? {
            Ok(photo) => photo,
            Err(error) => return Ok(Err(error)),
        };
        let measures = Some(&photo.measured.0);
        let found = findings(photo.width, photo.height, measures, self.model.native_size);
        if let Some(failed) = found.into_iter().find(|one| one.verdict == PhotoVerdict::Fail) {
            return Ok(Err(PhotoError::Failed(failed)));
        }
        let notes = PhotoNotes { measured: Some(photo.measured.clone()), ..PhotoNotes::default() };
        let image_id = ImageId::generate();
        let source =
            ImageSource::Photo { concept_id: concept.concept_id, file_name: file.file_name };
        let key = StorageKey::photo(concept.concept_id, image_id);
        // The object is written before its row. An object without a row wastes space; a row without an object would be
        // a bug.
        let image = self.store(image_id, source, &key, photo).await?;
        Ok(Ok(StagedPhoto { image, notes }))
    }

    /// Stages the photos of a zip archive, with the captions that lie beside them: a verdict for each photo. The second list has what
    /// was left out.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if it is no zip archive, has unsafe paths or too many photos, or a caption cannot be read.
    pub async fn stage_archive(
        &self,
        caller: &Caller,
        concept: &Concept,
        archive: File,
    ) -> Result<(Vec<ArchivedVerdict>, Vec<FileVerdict>), Refusal> {
        // An archive is unpacked on the disk: one at a time.
        let _permit = self.archives.clone().acquire_owned().await.map_err(Refusal::internal)?;
        let opened = tokio::task::spawn_blocking(move || PhotoArchive::open(archive));
        let archive = Arc::new(opened.await.map_err(Refusal::internal)??);
        if archive.photos().len() > MAX_PHOTOS {
            let count = archive.photos().len();
            let detail =
                format!("the archive has {count} photos and a concept at most {MAX_PHOTOS}");
            return Err(FieldError::new("/files", Code::TooManyImages, detail).into());
        }
        let mut verdicts = Vec::new();
        for index in 0..archive.photos().len() {
            let staged = self.stage_archived(caller, concept, &archive, index).await;
            match staged {
                Ok(verdict) => verdicts.push(verdict),
                Err(refusal) => {
                    let staged = verdicts.into_iter().filter_map(|(_, one)| one.ok()).collect();
                    self.discard_photos(caller, concept, staged).await;
                    return Err(refusal);
                }
            }
        }
        let left_out = archive.left_out.clone();
        Ok((verdicts, left_out))
    }

    async fn stage_archived(
        &self,
        caller: &Caller,
        concept: &Concept,
        archive: &Arc<PhotoArchive>,
        index: usize,
    ) -> Result<ArchivedVerdict, Refusal> {
        let photo = &archive.photos()[index];
        if let Some(caption) = &photo.caption {
            let checked = self.check_caption(concept, caption, "/files");
            checked.map_err(|error| FieldError {
                detail: format!("the caption of `{}`: {}", photo.path, error.detail),
                ..error
            })?;
        }
        let read = archive.clone();
        let bytes = tokio::task::spawn_blocking(move || read.read(&read.photos()[index])).await;
        let bytes = bytes.map_err(Refusal::internal)?.map_err(Refusal::internal)?;
        let mut content = self.receive();
        content.push(&bytes).await?;
        let name = readable_path(&photo.path);
        let file = UploadedFile { file_name: Some(name.clone()), content };
        let staged = self.stage_photo(caller, concept, file).await?;
        let staged = staged.map(|mut staged| {
            staged.notes.caption.clone_from(&photo.caption);
            staged
        });
        Ok((name, staged))
    }

    /// Decodes a file and writes it as a mask, or returns why it cannot be one.
    pub async fn stage_mask(
        &self,
        _caller: &Caller,
        concept: &Concept,
        file: UploadedFile,
    ) -> Result<Result<StagedMask, PhotoError>, Refusal> {
        let photo = match self.decode_mask(file.content).await? {
            Ok(photo) => photo,
            Err(error) => return Ok(Err(error)),
        };
        if photo.measured.0.contrast < 0.5 && photo.measured.1.0.iter().all(|&level| level < 128) {
            let detail = "the mask is black everywhere: paint white where the subject is";
            return Ok(Err(PhotoError::Failed(Finding::fail(Code::MaskUnusable, detail))));
        }
        let (width, height) = (photo.width, photo.height);
        let mask_id = ImageId::generate();
        let source = ImageSource::Photo { concept_id: concept.concept_id, file_name: None };
        let key = StorageKey::photo(concept.concept_id, mask_id);
        let Image { sha256, size_bytes, .. } = self.store(mask_id, source, &key, photo).await?;
        Ok(Ok(StagedMask { mask: Mask { mask_id, sha256, size_bytes }, width, height }))
    }

    /// Adds staged photos to a concept, in one transaction: those that it does not have already, up to as many as it can have.
    /// Returns a verdict for each.
    pub async fn add_photos(
        &self,
        caller: &Caller,
        concept: &Concept,
        staged: Vec<StagedPhoto>,
    ) -> Result<Vec<Result<DescribedPhoto, PhotoError>>, Refusal> {
        let mut tx = self.db.begin().await?;
        if let Err(refusal) = self.reserve(&mut tx, caller, Need::Bytes(bytes_of(&staged))).await {
            drop(tx);
            self.discard_photos(caller, concept, staged).await;
            return Err(refusal);
        }
        let (verdicts, left_out) = self.add_photos_in(&mut tx, caller, concept, staged).await?;
        tx.commit().await?;
        self.discard_photos(caller, concept, left_out).await;
        Ok(verdicts)
    }

    /// The same in a transaction that does more and has reserved the room. The second list has those that were not added, whose objects are left.
    pub(in crate::app) async fn add_photos_in(
        &self,
        tx: &mut PgConnection,
        caller: &Caller,
        concept: &Concept,
        staged: Vec<StagedPhoto>,
    ) -> Result<(Vec<Result<DescribedPhoto, PhotoError>>, Vec<StagedPhoto>), Refusal> {
        if !db::concept::lock(&mut *tx, concept.concept_id).await? {
            return Err(Refusal::not_found("concept", concept.concept_id)); // deleted in the meantime
        }
        let photos = db::image::of_concepts(&mut *tx, &[concept.concept_id]).await?;
        let mut digests: HashSet<Digest> = photos.iter().map(|it| it.sha256.clone()).collect();
        let mut verdicts = Vec::new();
        let mut left_out = Vec::new();
        let mut added = String::new();
        for photo in staged {
            let refused = if digests.contains(&photo.image.sha256) {
                Some(PhotoError::Duplicate)
            } else if digests.len() >= MAX_PHOTOS {
                Some(PhotoError::TooMany)
            } else {
                None
            };
            verdicts.push(match refused {
                Some(error) => {
                    left_out.push(photo);
                    Err(error)
                }
                None => {
                    added.push_str(&format!("{},", photo.image.image_id));
                    db::image::record(&mut *tx, caller.project_id(), &photo.image).await?;
                    db::photo::record(&mut *tx, photo.image.image_id, &photo.notes).await?;
                    digests.insert(photo.image.sha256.clone());
                    Ok(photo)
                }
            });
        }
        if !added.is_empty() {
            self.claim_key(&mut *tx, added).await?;
        }
        let all = db::image::of_concepts(&mut *tx, &[concept.concept_id]).await?;
        let notes = db::photo::of_images(&mut *tx, caller.project_id(), &ids(&all)).await?;
        let mut described: HashMap<ImageId, DescribedPhoto> = self
            .describe(concept, all, notes)
            .into_iter()
            .map(|photo| (photo.image.image_id, photo))
            .collect();
        let describe = |added: Result<StagedPhoto, PhotoError>| {
            added.map(|StagedPhoto { image, notes }| {
                described.remove(&image.image_id).unwrap_or_else(|| DescribedPhoto {
                    image,
                    notes,
                    training_caption: None,
                    findings: Vec::new(),
                })
            })
        };
        Ok((verdicts.into_iter().map(describe).collect(), left_out))
    }

    /// Deletes the objects of photos that were staged and are not added. What cannot be deleted only wastes space.
    pub async fn discard_photos(
        &self,
        _caller: &Caller,
        concept: &Concept,
        staged: Vec<StagedPhoto>,
    ) {
        for StagedPhoto { image, notes } in staged {
            let mask = notes.mask.map(|mask| mask.storage_key(concept.concept_id));
            for key in std::iter::once(image.storage_key).chain(mask) {
                if let Err(error) = self.storage.delete(&key).await {
                    tracing::warn!(%error, "the object of a photo that was not added stays");
                }
            }
        }
    }

    /// Deletes the objects of masks that belong to no photo.
    pub async fn discard_masks(
        &self,
        _caller: &Caller,
        concept: &Concept,
        masks: impl IntoIterator<Item = StagedMask>,
    ) {
        for StagedMask { mask, .. } in masks {
            if let Err(error) = self.storage.delete(&mask.storage_key(concept.concept_id)).await {
                tracing::warn!(%error, "the object of a mask that was not added stays");
            }
        }
    }
}

impl StagedMask {
    /// Says what is wrong if the mask has not the shape of its photo.
    pub fn check_fits(&self, image: &Image) -> Result<(), String> {
        let ratio = |width: f64, height: f64| width / height;
        let (one, other) = (
            ratio(f64::from(self.width), f64::from(self.height)),
            ratio(f64::from(image.width), f64::from(image.height)),
        );
        if (one / other - 1.0).abs() <= 0.02 {
            return Ok(());
        }
        Err(format!(
            "the mask has {}x{} pixels and its photo, upright, {}x{}: paint the mask at the photo's size",
            self.width, self.height, image.width, image.height
        ))
    }
}

/// What staged photos and their masks take of the object store.
pub(in crate::app) fn bytes_of(staged: &[StagedPhoto]) -> i64 {
    let masks = staged.iter().filter_map(|photo| photo.notes.mask.as_ref());
    staged.iter().map(|photo| photo.image.size_bytes).sum::<i64>()
        + masks.map(|mask| mask.size_bytes).sum::<i64>()
}
