//! The delta that a training goes on from.

use sqlx::PgConnection;

use crate::app::Refusal;
use crate::app::binding::check_base_model;
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::{Concept, ConceptWords};
use crate::domain::delta::DeltaConcept;
use crate::domain::id::{DeltaId, ProjectId};
use crate::domain::invalid::FieldError;
use crate::domain::model_info::ModelInfo;
use crate::domain::training::StartFrom;

const POINTER: &str = "/start_from";

/// Resolves the delta, for a training of these concepts.
pub(super) async fn resolve(
    db: &mut PgConnection,
    project_id: ProjectId,
    model: &ModelInfo,
    delta_id: DeltaId,
    taught: &[&Concept],
) -> Result<StartFrom, Refusal> {
    let found = db::delta::find(&mut *db, project_id, &[delta_id]).await?;
    let delta = found.into_iter().next().ok_or_else(|| {
        let detail = format!("no delta `{delta_id}`: GET /v1/deltas lists those that exist");
        FieldError::new(POINTER, Code::UnknownDelta, detail)
    })?;
    check_base_model(&delta, model, POINTER)?;
    let contents = db::delta::concepts_of(&mut *db, &[delta_id]).await?;
    let is_taught = |one: &DeltaConcept| taught.iter().any(|it| it.concept_id == one.concept_id);
    let carried: Vec<&DeltaConcept> = contents.iter().filter(|one| !is_taught(one)).collect();
    for one in &carried {
        check_words(one, taught)?;
    }
    Ok(StartFrom {
        delta: delta.used_at(1.0),
        concepts: carried.iter().map(|one| one.concept_id).collect(),
    })
}

/// Refuses a concept that no prompt could tell apart from one that the training teaches.
fn check_words(carried: &DeltaConcept, taught: &[&Concept]) -> Result<(), FieldError> {
    let bare_noun = |words: &ConceptWords| match words.modifier_token {
        None => Some(words.class_noun.clone()),
        Some(_) => None,
    };
    let noun = bare_noun(&carried.words);
    match taught.iter().find(|it| noun.is_some() && bare_noun(&it.words) == noun) {
        None => Ok(()),
        Some(it) => {
            let detail = format!(
                "`{}` of this delta and `{}` both teach the bare noun `{}`: give one a modifier token",
                carried.handle, it.handle, carried.words.class_noun
            );
            Err(FieldError::new(POINTER, Code::AmbiguousConcept, detail))
        }
    }
}
