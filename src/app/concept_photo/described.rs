//! What a photo is as a picture to learn from, and what a concept's photos are together.

use std::collections::HashMap;

use crate::app::{App, Caller, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::id::{ConceptId, ImageId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::photo::{
    Finding, PhotoNotes, PhotoVerdict, Thumbnail, findings, training_caption, verdict_of,
};
use crate::domain::training::MIN_IMAGES;
use crate::domain::warning::Warning;

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
    pub(super) fn describe(
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

pub(super) fn ids(images: &[Image]) -> Vec<ImageId> {
    images.iter().map(|image| image.image_id).collect()
}

pub(super) fn is_of(image: &Image, concept: ConceptId) -> bool {
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
