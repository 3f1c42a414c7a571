//! Photos of a concept: listed, described, changed.

mod described;
mod staging;

use std::collections::HashMap;

use super::download::{Downloadable, Owner};
use super::{App, Caller, Precondition, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::digest::Digest;
use crate::domain::id::ImageId;
use crate::domain::invalid::FieldError;
use crate::domain::labelled::Labelled;
use crate::domain::page::{Page, PageOf};
use crate::domain::photo::{PhotoNotes, training_caption};
use crate::domain::record::ExternalId;

pub use described::{DescribedPhoto, PhotoCheck};
pub(super) use staging::bytes_of;
pub use staging::{ArchivedVerdict, StagedMask, StagedPhoto};

use described::{ids, is_of};

impl App {
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
}

/// What is changed of a photo.
#[derive(Clone, Debug)]
pub enum PhotoChange {
    /// `None` removes it.
    Caption(Option<String>),
    /// `None` removes it.
    Mask(Option<StagedMask>),
}
