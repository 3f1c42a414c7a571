//! The deletion of images, deltas and preference studies.

use super::{Removal, Removed, in_use};
use crate::app::{App, Caller, Precondition, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::id::{DeltaId, EvaluationId, ImageId, StudyId};
use crate::domain::image::ImageSource;
use crate::domain::invalid::FieldError;
use crate::domain::job::JobState;
use crate::domain::labelled::Labelled;

impl App {
    /// Deletes an image: a photo of a concept, an upload, or an image of a sample. A job that has not ended and needs it keeps its
    /// file until then.
    ///
    /// - `concept`: the concept whose photo it has to be
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Conflict`] if an evaluation that has not ended needs it, or a preference study shows it;
    /// [`Refusal::PreconditionFailed`].
    pub async fn delete_image(
        &self,
        caller: &Caller,
        concept: Option<&str>,
        id: ImageId,
        precondition: &Precondition,
    ) -> Result<Removed, Refusal> {
        let image = match concept {
            None => self.image(caller, id).await?,
            Some(concept) => self.photo(caller, concept, id).await?,
        };
        let mut tx = self.db.begin().await?;
        if let ImageSource::Photo { concept_id, .. } = image.source {
            db::concept::lock(&mut *tx, concept_id).await?; // before its photos, as everywhere
        }
        self.hold(&mut tx, caller, Labelled::Image(id), precondition).await?;
        if let ImageSource::Sample { sample_id, .. } = image.source {
            self.check_not_compared(&mut tx, sample_id.into()).await?;
        }
        let removal = Removal { images: vec![id], ..Removal::default() };
        let (removed, objects) = self.remove(&mut tx, &removal).await?;
        tx.commit().await?;
        self.delete_objects(objects).await;
        Ok(removed)
    }

    /// Refuses images of a sample that an evaluation still reads or a study shows.
    async fn check_not_compared(
        &self,
        tx: &mut sqlx::PgConnection,
        sample: crate::domain::id::JobId,
    ) -> Result<(), Refusal> {
        let Some((evaluation, state)) = db::removal::evaluation_of(&mut *tx, sample).await? else {
            return Ok(());
        };
        let refuse = |detail| Err(Refusal::Conflict(FieldError::new("", Code::ImageInUse, detail)));
        if matches!(state, JobState::Queued | JobState::Running) {
            let id = EvaluationId::from(evaluation);
            return refuse(format!(
                "evaluation `{id}` has not ended and needs it: cancel that, or wait"
            ));
        }
        match db::removal::studies_of(&mut *tx, &[evaluation]).await?.first() {
            Some(study) => {
                refuse(format!("preference study `{study}` shows it: delete that first"))
            }
            None => Ok(()),
        }
    }

    /// Deletes a delta. Jobs that have not ended keep its file until then, and those that have ended stay.
    ///
    /// - `cascade`: also if it is the current delta of a concept, which then goes back to the one before
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::InUse`] without `cascade`; [`Refusal::PreconditionFailed`].
    pub async fn delete_delta(
        &self,
        caller: &Caller,
        id: DeltaId,
        cascade: bool,
        precondition: &Precondition,
    ) -> Result<Removed, Refusal> {
        let mut tx = self.db.begin().await?;
        db::removal::lock_concepts_of(&mut *tx, id).await?; // before the delta, as a promotion does
        self.hold(&mut tx, caller, Labelled::Delta(id), precondition).await?;
        if !cascade {
            let current = db::removal::concepts_with_current(&mut *tx, id).await?;
            let current =
                current.iter().map(|id| format!("it is the current delta of concept `{id}`"));
            if let Some(refusal) = in_use(Code::DeltaInUse, current.collect()) {
                return Err(refusal);
            }
        }
        let removal = Removal { deltas: vec![id], ..Removal::default() };
        let (removed, objects) = self.remove(&mut tx, &removal).await?;
        tx.commit().await?;
        self.delete_objects(objects).await;
        Ok(removed)
    }

    /// Deletes a preference study with its links and votes.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::PreconditionFailed`].
    pub async fn delete_study(
        &self,
        caller: &Caller,
        id: StudyId,
        precondition: &Precondition,
    ) -> Result<Removed, Refusal> {
        let mut tx = self.db.begin().await?;
        self.hold(&mut tx, caller, Labelled::Study(id), precondition).await?;
        let removal = Removal { studies: vec![id], ..Removal::default() };
        let (removed, _) = self.remove(&mut tx, &removal).await?;
        tx.commit().await?;
        Ok(removed)
    }
}
