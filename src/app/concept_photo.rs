//! Photos of a concept: added with their captions and masks, described, checked.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use sqlx::PgConnection;

use super::download::{Downloadable, Owner};
use super::image::UploadedFile;
use super::photo::PhotoError;
use super::quota::Need;
use super::{App, Caller, Precondition, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::digest::Digest;
use crate::domain::id::{ConceptId, ImageId};
use crate::domain::image::{Image, ImageSource, MAX_PHOTOS, readable_path};
use crate::domain::image_set::FileVerdict;
use crate::domain::invalid::FieldError;
use crate::domain::labelled::Labelled;
use crate::domain::page::{Page, PageOf};
use crate::domain::photo::{
    Finding, Mask, PhotoNotes, PhotoVerdict, Thumbnail, findings, training_caption, verdict_of,
};
use crate::domain::record::ExternalId;
use crate::domain::storage_key::StorageKey;
use crate::domain::training::MIN_IMAGES;
use crate::domain::warning::Warning;
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

/// A photo and what it is as a picture to learn from.
#[derive(Clone, Debug)]
pub struct DescribedPhoto {
    pub image: Image,
    pub notes: PhotoNotes,
    /// The caption that it is trained with, if it has one of its own.
    pub training_caption: Option<String>,
    pub findings: Vec<Finding>,
}

impl DescribedPhoto {
    /// How good it is to learn from; `None` if it has not been measured.
    pub fn verdict(&self) -> Option<PhotoVerdict> {
        let verdict = verdict_of(&self.findings);
        let is_known = self.notes.measured.is_some() || verdict == PhotoVerdict::Fail;
        is_known.then_some(verdict)
    }
}

/// The path of a photo in its archive, and what became of it.
pub type ArchivedVerdict = (String, Result<StagedPhoto, PhotoError>);

/// What a concept's photos are together.
#[derive(Clone, Debug)]
pub struct PhotoCheck {
    pub concept: Concept,
    /// Oldest first.
    pub photos: Vec<DescribedPhoto>,
    /// About all of them together.
    pub findings: Vec<Finding>,
}

impl PhotoCheck {
    /// The worst of all findings. One photo that fails is a warning for the set: a training can do without it.
    pub fn verdict(&self) -> PhotoVerdict {
        let of_photos = self.photos.iter().filter_map(DescribedPhoto::verdict).max();
        let of_photos = of_photos.unwrap_or(PhotoVerdict::Ok).min(PhotoVerdict::Warn);
        verdict_of(&self.findings).max(of_photos)
    }

    /// What a training on these photos is accepted with, although its result may suffer from it.
    ///
    /// - `pointer`: to the concept in the request, such as `/concepts/0`
    pub fn warnings(&self, pointer: &str) -> Vec<Warning> {
        let mut warnings: Vec<Warning> = Vec::new();
        let of_set = self.findings.iter().filter(|one| one.code != Code::DatasetTooSmall);
        for finding in of_set {
            let detail = format!("concept `{}`: {}", self.concept.handle, finding.detail);
            warnings.push(Warning { code: finding.code, detail, pointer: pointer.to_owned() });
        }
        // One warning for each kind of finding, with the photos that have it.
        let mut of_kind: Vec<(Code, &str, Vec<String>)> = Vec::new();
        for photo in &self.photos {
            let name = name_of(&photo.image);
            for finding in &photo.findings {
                match of_kind.iter_mut().find(|(code, ..)| *code == finding.code) {
                    Some((.., names)) => names.push(name.clone()),
                    None => of_kind.push((finding.code, &finding.detail, vec![name.clone()])),
                }
            }
        }
        for (code, detail, names) in of_kind {
            let count = names.len();
            let named: Vec<String> = names.into_iter().take(3).collect();
            let more = if count > named.len() { ", …" } else { "" };
            let detail = format!(
                "{count} of {} photos of concept `{}` ({}{more}): {detail}",
                self.photos.len(),
                self.concept.handle,
                named.join(", "),
            );
            warnings.push(Warning { code, detail, pointer: pointer.to_owned() });
        }
        warnings
    }
}

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
    pub(super) async fn add_photos_in(
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

    /// Lists the photos of a concept, newest first.
    pub async fn photos_of_concept(
        &self,
        caller: &Caller,
        concept: &str,
        external_id: Option<&ExternalId>,
        page: Page,
    ) -> Result<PageOf<DescribedPhoto>, Refusal> {
        let listed = self.images_of_concept(caller, concept, external_id, page).await?;
        let concept = self.find_concept(caller, concept).await?;
        // All of them: a photo may be nearly the same as one of another page.
        let all = db::image::of_concepts(&self.db, &[concept.concept_id]).await?;
        let notes = db::photo::of_images(&self.db, caller.project_id(), &ids(&all)).await?;
        let described = self.describe(&concept, all, notes).into_iter();
        let mut described: HashMap<ImageId, DescribedPhoto> =
            described.map(|photo| (photo.image.image_id, photo)).collect();
        Ok(listed.map(|image| {
            described.remove(&image.image_id).unwrap_or_else(|| DescribedPhoto {
                image,
                notes: PhotoNotes::default(),
                training_caption: None,
                findings: Vec::new(),
            })
        }))
    }

    /// Returns a photo of a concept.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if the concept has no photo of this id.
    pub async fn photo_of_concept(
        &self,
        caller: &Caller,
        concept: &Concept,
        image_id: ImageId,
    ) -> Result<DescribedPhoto, Refusal> {
        let all = db::image::of_concepts(&self.db, &[concept.concept_id]).await?;
        let notes = db::photo::of_images(&self.db, caller.project_id(), &ids(&all)).await?;
        let mut described = self.describe(concept, all, notes).into_iter();
        let photo = described.find(|photo| photo.image.image_id == image_id);
        photo.ok_or_else(|| Refusal::not_found("photo", image_id))
    }

    /// Looks at all photos of a concept, and measures those that have not been.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such concept; [`Refusal::ObjectLost`] if the file of a photo is gone.
    pub async fn check_photos(
        &self,
        caller: &Caller,
        concept: &str,
    ) -> Result<PhotoCheck, Refusal> {
        let concept = self.find_concept(caller, concept).await?;
        let images = db::image::of_concepts(&self.db, &[concept.concept_id]).await?;
        let mut notes = db::photo::of_images(&self.db, caller.project_id(), &ids(&images)).await?;
        for image in &images {
            let notes = notes.entry(image.image_id).or_default();
            if notes.measured.is_none() {
                let measured = self.measure(image).await?;
                db::photo::record_measures(&self.db, image.image_id, &measured).await?;
                notes.measured = Some(measured);
            }
        }
        Ok(self.check_of(concept, images, notes))
    }

    /// What a training on these concepts' photos is to be warned of. Photos that nobody has measured are left out.
    ///
    /// - `concepts`: in the order of the request
    pub async fn photo_warnings(
        &self,
        caller: &Caller,
        concepts: &[&Concept],
        images: &[Image],
    ) -> Result<Vec<Warning>, Refusal> {
        let notes = db::photo::of_images(&self.db, caller.project_id(), &ids(images)).await?;
        let mut warnings = Vec::new();
        for (index, concept) in concepts.iter().enumerate() {
            let its = images.iter().filter(|image| is_of(image, concept.concept_id));
            let check = self.check_of((*concept).clone(), its.cloned().collect(), notes.clone());
            warnings.extend(check.warnings(&format!("/concepts/{index}")));
        }
        Ok(warnings)
    }

    /// Refuses a caption that would be cut, in the form in which it is trained.
    ///
    /// # Errors
    /// [`FieldError`] at `pointer`.
    pub fn check_caption(
        &self,
        concept: &Concept,
        caption: &str,
        pointer: &str,
    ) -> Result<(), FieldError> {
        let tokens: Vec<_> = concept.words.modifier_token.clone().into_iter().collect();
        let caption = training_caption(caption, &concept.words);
        let prefixes =
            self.model.recipe.small_prefixes.iter().chain(&self.model.recipe.large_prefixes);
        let longest = prefixes.max_by_key(|prefix| prefix.len()).map_or("", String::as_str);
        self.model.check_prompt(&format!("{longest}{caption}"), &tokens, pointer)
    }

    /// Changes a photo's caption.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Invalid`] for a caption that is too long.
    pub async fn change_photo(
        &self,
        caller: &Caller,
        concept: &str,
        image_id: ImageId,
        change: PhotoChange,
        precondition: &Precondition,
    ) -> Result<DescribedPhoto, Refusal> {
        let concept = self.find_concept(caller, concept).await?;
        let mut tx = self.db.begin().await?;
        db::concept::lock(&mut *tx, concept.concept_id).await?;
        let image = db::image::find(&mut *tx, caller.project_id(), image_id).await?;
        let image = image.filter(|image| is_of(image, concept.concept_id));
        let image = image.ok_or_else(|| Refusal::not_found("photo", image_id))?;
        self.hold(&mut tx, caller, Labelled::Image(image_id), precondition).await?;
        let known = db::photo::of_images(&mut *tx, caller.project_id(), &[image_id]).await?;
        let mut notes = known.into_values().next().unwrap_or_default();
        match change {
            PhotoChange::Caption(caption) => notes.caption = caption,
            PhotoChange::Mask(None) => notes.mask = None,
            PhotoChange::Mask(Some(mask)) => {
                mask.check_fits(&image)
                    .map_err(|detail| FieldError::new("/mask", Code::MaskUnusable, detail))?;
                notes.mask = Some(mask.mask);
            }
        }
        db::photo::record(&mut *tx, image_id, &notes).await?;
        db::image::touch(&mut *tx, image_id).await?;
        tx.commit().await?;
        self.photo_of_concept(caller, &concept, image_id).await
    }

    /// The file of a photo's mask.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if the photo has none.
    pub fn mask_file(
        &self,
        _caller: &Caller,
        concept: &Concept,
        photo: &DescribedPhoto,
    ) -> Result<(Downloadable, Digest), Refusal> {
        let mask = photo.notes.mask.as_ref();
        let mask = mask.ok_or_else(|| Refusal::not_found("mask of photo", photo.image.image_id))?;
        let key = mask.storage_key(concept.concept_id);
        let of = Owner::new("mask of image", photo.image.image_id);
        Ok((self.downloadable(of, &key, 0, mask.size_bytes, &mask.sha256), mask.sha256.clone()))
    }

    fn check_of(
        &self,
        concept: Concept,
        images: Vec<Image>,
        notes: HashMap<ImageId, PhotoNotes>,
    ) -> PhotoCheck {
        let photos = self.describe(&concept, images, notes);
        let findings = findings_of_set(&concept, &photos);
        PhotoCheck { concept, photos, findings }
    }

    /// Adds to images what is known of them, in their order.
    fn describe(
        &self,
        concept: &Concept,
        images: Vec<Image>,
        mut notes: HashMap<ImageId, PhotoNotes>,
    ) -> Vec<DescribedPhoto> {
        let mut described: Vec<DescribedPhoto> = Vec::new();
        for image in images {
            let notes = notes.remove(&image.image_id).unwrap_or_default();
            let (width, height) = (image.width.unsigned_abs(), image.height.unsigned_abs());
            let measures = notes.measured.as_ref().map(|(measures, _)| measures);
            let mut findings = findings(width, height, measures, self.model.native_size);
            if let Some(twin) = thumbnail(&notes).and_then(|one| {
                described
                    .iter()
                    .find(|other| thumbnail(&other.notes).is_some_and(|it| one.is_like(it)))
            }) {
                let detail = format!(
                    "the photo is nearly the same as {}: it teaches nothing more and makes the concept look like it; use photos that \
                     differ in view, place and light",
                    name_of(&twin.image)
                );
                findings.push(Finding::warn(Code::ImageNearDuplicate, detail));
            }
            let caption = notes.caption.as_ref();
            let training_caption = caption.map(|caption| training_caption(caption, &concept.words));
            described.push(DescribedPhoto { image, notes, training_caption, findings });
        }
        described
    }
}

/// What is changed of a photo.
#[derive(Clone, Debug)]
pub enum PhotoChange {
    /// `None` removes it.
    Caption(Option<String>),
    /// `None` removes it.
    Mask(Option<StagedMask>),
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

/// What is to be said about all photos together.
fn findings_of_set(concept: &Concept, photos: &[DescribedPhoto]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if photos.len() < MIN_IMAGES {
        findings.push(Finding::fail(
            Code::DatasetTooSmall,
            format!(
                "a training needs {MIN_IMAGES} photos and the concept has {}: add more",
                photos.len()
            ),
        ));
    }
    let alike = |photo: &&DescribedPhoto| {
        photo.findings.iter().any(|one| one.code == Code::ImageNearDuplicate)
    };
    let different = photos.len() - photos.iter().filter(alike).count();
    if photos.len() >= MIN_IMAGES && different < MIN_IMAGES {
        findings.push(Finding::warn(
            Code::ImageNearDuplicate,
            format!("only {different} of {} photos differ from each other: the concept will look like them in view and place", photos.len()),
        ));
    }
    let captions: Vec<&str> =
        photos.iter().filter_map(|photo| photo.training_caption.as_deref()).collect();
    let all_the_same = captions.windows(2).all(|pair| pair[0] == pair[1]);
    if captions.len() >= MIN_IMAGES && all_the_same {
        findings.push(Finding::warn(
            Code::CaptionsIdentical,
            format!(
                "all captions are `{}`: describe what differs from photo to photo, or leave captions out and let the recipe's templates \
                 name concept `{}`",
                captions[0], concept.handle
            ),
        ));
    }
    findings
}

fn thumbnail(notes: &PhotoNotes) -> Option<&Thumbnail> {
    notes.measured.as_ref().map(|(_, thumbnail)| thumbnail)
}

/// What staged photos and their masks take of the object store.
pub(super) fn bytes_of(staged: &[StagedPhoto]) -> i64 {
    let masks = staged.iter().filter_map(|photo| photo.notes.mask.as_ref());
    staged.iter().map(|photo| photo.image.size_bytes).sum::<i64>()
        + masks.map(|mask| mask.size_bytes).sum::<i64>()
}

fn ids(images: &[Image]) -> Vec<ImageId> {
    images.iter().map(|image| image.image_id).collect()
}

fn is_of(image: &Image, concept: ConceptId) -> bool {
    matches!(&image.source, ImageSource::Photo { concept_id, .. } if *concept_id == concept)
}

/// What people know a photo by.
fn name_of(image: &Image) -> String {
    match &image.source {
        ImageSource::Photo { file_name: Some(name), .. }
        | ImageSource::Upload { file_name: Some(name) } => format!("`{name}`"),
        ImageSource::Photo { .. } | ImageSource::Upload { .. } | ImageSource::Sample { .. } => {
            format!("`{}`", image.image_id)
        }
    }
}
