//! Labels: the metadata and external ids that clients attach to objects.

use sqlx::PgConnection;

use super::{App, Caller, Precondition, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::invalid::FieldError;
use crate::domain::labelled::Labelled;
use crate::domain::record::{Labels, LabelsPatch, Record};

impl App {
    /// Changes the labels of an object.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Invalid`] if the metadata would not fit; [`Refusal::Conflict`] if another object has the
    /// external id; [`Refusal::PreconditionFailed`].
    pub async fn relabel(
        &self,
        caller: &Caller,
        object: Labelled,
        patch: LabelsPatch,
        precondition: &Precondition,
    ) -> Result<(), Refusal> {
        let mut tx = self.db.begin().await?;
        self.relabel_in(&mut tx, caller, object, patch, precondition).await?;
        Ok(tx.commit().await?)
    }

    /// The same in a transaction, in which the object stays locked.
    pub(super) async fn relabel_in(
        &self,
        tx: &mut PgConnection,
        caller: &Caller,
        object: Labelled,
        patch: LabelsPatch,
        precondition: &Precondition,
    ) -> Result<(), Refusal> {
        let record = self.hold(tx, caller, object, precondition).await?;
        let labels = patch.apply(record.labels)?;
        match db::label::set(&mut *tx, object, &labels).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refuse_taken_id(caller, object, &labels, error).await),
        }
    }

    /// Locks an object until the transaction ends, if it has the revision that the request was made for.
    pub(super) async fn hold(
        &self,
        tx: &mut PgConnection,
        caller: &Caller,
        object: Labelled,
        precondition: &Precondition,
    ) -> Result<Record, Refusal> {
        let record = db::label::lock(&mut *tx, caller.project_id(), object).await?;
        let record = record.ok_or_else(|| Refusal::not_found(object.noun(), object))?;
        precondition.check(record.revision)?;
        Ok(record)
    }

    /// What a failed statement means that would have given an object its labels.
    ///
    /// - `like`: an object of the kind
    pub(super) async fn refuse_taken_id(
        &self,
        caller: &Caller,
        like: Labelled,
        labels: &Labels,
        error: sqlx::Error,
    ) -> Refusal {
        let Some(external_id) = &labels.external_id else { return error.into() };
        if !db::label::is_taken_external_id(&error) {
            return error.into();
        }
        let holder = db::label::holder(&self.db, caller.project_id(), like, external_id).await;
        let holder = match holder {
            Ok(Some(holder)) => format!("{} `{holder}`", holder.noun()),
            Ok(None) => format!("another {}", like.noun()), // it is gone again
            Err(error) => return error.into(),
        };
        let detail = format!(
            "`{external_id}` is the external id of {holder}: use that, or choose another id"
        );
        Refusal::Conflict(FieldError::new("/external_id", Code::ExternalIdTaken, detail))
    }
}
