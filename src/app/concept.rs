//! Concepts: what users teach.

use std::collections::HashMap;

use super::quota::Need;
use super::{App, Caller, Precondition, Refusal};
use crate::db;
use crate::db::image::PhotosInShort;
use crate::domain::code::Code;
use crate::domain::concept::{Concept, ConceptRef, ConceptWords, Handle, ModifierToken};
use crate::domain::id::{ConceptId, ImageId};
use crate::domain::invalid::FieldError;
use crate::domain::labelled::Labelled;
use crate::domain::page::{Page, PageOf};
use crate::domain::record::{ExternalId, Labels, LabelsPatch};
use crate::domain::search::SearchText;

/// A concept to create.
#[derive(Clone, Debug)]
pub struct NewConcept {
    pub handle: Handle,
    pub words: ConceptWords,
    pub labels: Labels,
}

/// Changes of a concept; what is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct ConceptChanges {
    pub handle: Option<Handle>,
    pub labels: LabelsPatch,
}

/// A concept and its photos in short.
#[derive(Clone, Debug)]
pub struct CountedConcept {
    pub concept: Concept,
    pub image_count: i64,
    /// Its oldest photo.
    pub cover: Option<ImageId>,
}

impl CountedConcept {
    /// - `photos`: `None` for none
    fn new(concept: Concept, photos: Option<&PhotosInShort>) -> Self {
        let image_count = photos.map_or(0, |photos| photos.count);
        Self { concept, image_count, cover: photos.map(|photos| photos.first) }
    }
}

impl App {
    /// Creates a concept that has no images yet.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] if another concept of the project has its handle or its modifier token; [`Refusal::Invalid`] if the base
    /// model's vocabulary has the token.
    pub async fn create_concept(
        &self,
        caller: &Caller,
        new: NewConcept,
    ) -> Result<CountedConcept, Refusal> {
        self.model.check_modifier_token(new.words.modifier_token.as_ref(), "/modifier_token")?;
        let concept_id = ConceptId::generate();
        let NewConcept { handle, words, labels } = &new;
        let project_id = caller.project_id();
        let mut tx = self.db.begin().await?;
        self.reserve(&mut tx, caller, Need::Concept).await?;
        self.claim_key(&mut tx, concept_id).await?;
        match db::concept::create(&mut *tx, project_id, concept_id, handle, words, labels).await {
            Ok(concept) => {
                tx.commit().await?;
                Ok(CountedConcept::new(concept, None))
            }
            Err(error) => {
                drop(tx);
                let token = words.modifier_token.as_ref();
                Err(self.refuse_taken_name(caller, error, handle, token, labels).await)
            }
        }
    }

    /// Returns a concept by its id or handle.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none.
    pub async fn concept(&self, caller: &Caller, name: &str) -> Result<CountedConcept, Refusal> {
        let concept = self.find_concept(caller, name).await?;
        let photos = db::image::count_of_concepts(&self.db, &[concept.concept_id]).await?;
        Ok(CountedConcept::new(concept, photos.first()))
    }

    /// Changes a concept's handle or labels.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Conflict`] if another concept has the handle or the external id; [`Refusal::Invalid`] if
    /// the metadata would not fit; [`Refusal::PreconditionFailed`].
    pub async fn update_concept(
        &self,
        caller: &Caller,
        name: &str,
        changes: ConceptChanges,
        precondition: &Precondition,
    ) -> Result<CountedConcept, Refusal> {
        let concept_id = self.find_concept(caller, name).await?.concept_id;
        let object = Labelled::Concept(concept_id);
        let mut tx = self.db.begin().await?;
        self.relabel_in(&mut tx, caller, object, changes.labels, precondition).await?;
        if let Some(handle) = &changes.handle
            && let Err(error) = db::concept::rename(&mut *tx, concept_id, handle).await
        {
            let labels = Labels::default();
            return Err(self.refuse_taken_name(caller, error, handle, None, &labels).await);
        }
        tx.commit().await?;
        self.concept(caller, &concept_id.to_string()).await
    }

    /// Lists concepts: all, those whose names have these words, or the one with this external id.
    pub async fn concepts(
        &self,
        caller: &Caller,
        search: &SearchText,
        external_id: Option<&ExternalId>,
        page: Page,
    ) -> Result<PageOf<CountedConcept>, Refusal> {
        let (project_id, more) = (caller.project_id(), page.with_one_more());
        let found = db::concept::list(&self.db, project_id, search, external_id, more).await?;
        let found = page.cut(found);
        let ids: Vec<ConceptId> = found.items.iter().map(|concept| concept.concept_id).collect();
        let photos = db::image::count_of_concepts(&self.db, &ids).await?;
        let photos: HashMap<ConceptId, PhotosInShort> =
            photos.into_iter().map(|photos| (photos.concept_id, photos)).collect();
        Ok(found.map(|concept| {
            let photos = photos.get(&concept.concept_id);
            CountedConcept::new(concept, photos)
        }))
    }

    /// Finds a concept by the name in a path: its id or its handle.
    pub async fn find_concept(&self, caller: &Caller, name: &str) -> Result<Concept, Refusal> {
        let missing = || Refusal::not_found("concept", name);
        let wanted = ConceptRef::try_from(name.to_owned()).map_err(|_| missing())?;
        let project_id = caller.project_id();
        let found = match wanted {
            ConceptRef::Id(id) => db::concept::find(&self.db, project_id, &[id], &[], &[]).await?,
            ConceptRef::Handle(handle) => {
                let handle = handle.as_str().to_owned();
                db::concept::find(&self.db, project_id, &[], &[handle], &[]).await?
            }
        };
        found.into_iter().next().ok_or_else(missing)
    }

    async fn refuse_taken_name(
        &self,
        caller: &Caller,
        error: sqlx::Error,
        handle: &Handle,
        modifier_token: Option<&ModifierToken>,
        labels: &Labels,
    ) -> Refusal {
        let conflict =
            |pointer, code, detail| Refusal::Conflict(FieldError::new(pointer, code, detail));
        match (db::broken_constraint(&error), modifier_token) {
            (Some(db::concept::HANDLE_IS_UNIQUE), _) => conflict(
                "/handle",
                Code::HandleTaken,
                format!("`{handle}` is taken: choose another handle"),
            ),
            (Some(db::concept::MODIFIER_TOKEN_IS_UNIQUE), Some(token)) => conflict(
                "/modifier_token",
                Code::ModifierTokenTaken,
                format!("`{token}` stands for another concept: choose another word"),
            ),
            _ => {
                let like = Labelled::Concept(ConceptId::generate());
                self.refuse_taken_id(caller, like, labels, error).await
            }
        }
    }
}
