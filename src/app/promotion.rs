//! Promotions: which delta of a concept is its current one, and the way back.

use super::concept::CountedConcept;
use super::{App, Caller, Precondition, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::id::DeltaId;
use crate::domain::invalid::FieldError;
use crate::domain::page::{Page, PageOf};
use crate::domain::promotion::{Promoter, Promotion};

impl App {
    /// Makes a delta the current one of a concept.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] without such a concept; [`Refusal::Invalid`] if there is no such delta, or if it does not contain the
    /// concept or is of another base model; [`Refusal::PreconditionFailed`].
    pub async fn promote(
        &self,
        caller: &Caller,
        concept: &str,
        delta_id: DeltaId,
        precondition: &Precondition,
    ) -> Result<CountedConcept, Refusal> {
        let concept = self.find_concept(caller, concept).await?;
        let mut tx = self.db.begin().await?;
        self.hold_concept(&mut tx, caller, &concept, precondition).await?;
        self.check_promotable(&mut tx, caller, &concept, delta_id).await?;
        let concepts = [concept.concept_id];
        db::promotion::promote(&mut *tx, &concepts, delta_id, Promoter::Request, false).await?;
        tx.commit().await?;
        self.concept(caller, &concept.concept_id.to_string()).await
    }

    /// Goes back to the delta that was the current one before.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] without such a concept; [`Refusal::Conflict`] if there is no earlier delta;
    /// [`Refusal::PreconditionFailed`].
    pub async fn roll_back(
        &self,
        caller: &Caller,
        concept: &str,
        precondition: &Precondition,
    ) -> Result<CountedConcept, Refusal> {
        let concept = self.find_concept(caller, concept).await?;
        let mut tx = self.db.begin().await?;
        self.hold_concept(&mut tx, caller, &concept, precondition).await?;
        let newest = db::promotion::newest_two(&mut *tx, concept.concept_id).await?;
        let [current, before] = newest.as_slice() else {
            let detail = format!(
                "concept `{}` has had no other current delta before: promote one with POST /v1/concepts/{}/promote",
                concept.handle, concept.concept_id
            );
            return Err(Refusal::Conflict(FieldError::new("", Code::NoEarlierDelta, detail)));
        };
        db::promotion::mark_rolled_back(&mut *tx, current.number).await?;
        db::promotion::go_back_to(&mut *tx, concept.concept_id, before.delta_id).await?;
        tx.commit().await?;
        self.concept(caller, &concept.concept_id.to_string()).await
    }

    /// Lists the promotions of a concept.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] without such a concept.
    pub async fn promotions(
        &self,
        caller: &Caller,
        concept: &str,
        page: Page,
    ) -> Result<PageOf<Promotion>, Refusal> {
        let concept_id = self.find_concept(caller, concept).await?.concept_id;
        let found = db::promotion::list(&self.db, concept_id, page.with_one_more()).await?;
        Ok(page.cut(found))
    }

    async fn check_promotable(
        &self,
        db: &mut sqlx::PgConnection,
        caller: &Caller,
        concept: &Concept,
        delta_id: DeltaId,
    ) -> Result<(), Refusal> {
        let refuse = |code, detail| Refusal::from(FieldError::new("/delta", code, detail));
        let found = db::delta::find(&mut *db, caller.project_id(), &[delta_id]).await?;
        let Some(delta) = found.into_iter().next() else {
            let detail = format!("there is no delta `{delta_id}`: list them with GET /v1/deltas");
            return Err(refuse(Code::UnknownDelta, detail));
        };
        let contents = db::delta::concepts_of(&mut *db, &[delta_id]).await?;
        if !contents.iter().any(|its| its.concept_id == concept.concept_id) {
            let detail = format!("`{delta_id}` does not contain concept `{}`", concept.handle);
            return Err(refuse(Code::DeltaOfAnotherConcept, detail));
        }
        if delta.base_digest != self.model.digest {
            let detail = format!(
                "`{delta_id}` was made for base model {:.12}, this service has {} ({:.12})",
                delta.base_digest, self.model.name, self.model.digest
            );
            return Err(refuse(Code::BaseModelMismatch, detail));
        }
        Ok(())
    }
}
