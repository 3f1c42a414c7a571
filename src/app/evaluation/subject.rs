//! From the subjects of a request to deltas.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::{NewSubject, default_name};
use crate::app::Refusal;
use crate::app::binding::bind;
use crate::app::sample::merge_recipe;
use crate::domain::code::Code;
use crate::domain::concept::ConceptRef;
use crate::domain::delta::DeltaConcept;
use crate::domain::evaluation::{MAX_NAME_CHARS, Subject};
use crate::domain::invalid::{FieldError, Invalid};
use crate::domain::merge::MergeRecipe;
use crate::domain::model_info::ModelInfo;

/// A subject with what its deltas contain.
pub(super) struct BoundSubject {
    pub(super) subject: Subject,
    pub(super) concepts: Vec<DeltaConcept>,
}

/// Resolves all subjects and gives each a name of its own.
pub(super) async fn bind_subjects(
    db: &mut PgConnection,
    model: &ModelInfo,
    subjects: &[NewSubject],
) -> Result<Vec<BoundSubject>, Refusal> {
    let mut bound = Vec::new();
    for (index, new) in subjects.iter().enumerate() {
        let pointer = format!("/subjects/{index}");
        bound.push(bind_subject(db, model, new, &pointer).await?);
    }
    name_subjects(subjects, &mut bound)?;
    Ok(bound)
}

async fn bind_subject(
    db: &mut PgConnection,
    model: &ModelInfo,
    new: &NewSubject,
    pointer: &str,
) -> Result<BoundSubject, Refusal> {
    if new.base != new.concepts.is_empty() {
        let (code, detail) = match new.base {
            true => (
                Code::ConflictingFields,
                "the base model alone has no concepts: leave one of the two out",
            ),
            false => (Code::MissingField, "name `concepts`, or `base` for the base model alone"),
        };
        return Err(FieldError::new(pointer, code, detail).into());
    }
    let binding = bind(db, model, &new.concepts, &[]).await;
    let binding = binding.map_err(|refusal| below(pointer, refusal))?;
    let merge = match (new.base, &new.merge) {
        (true, None) => Ok(MergeRecipe::default()),
        (_, merge) => merge_recipe(merge.clone(), binding.deltas.len(), model),
    };
    let merge = merge.map_err(|invalid| below(pointer, invalid.into()))?;
    let subject = Subject { name: String::new(), deltas: binding.deltas, merge };
    Ok(BoundSubject { subject, concepts: binding.concepts })
}

/// The names of the request, and names of what is evaluated for those that have none.
fn name_subjects(subjects: &[NewSubject], bound: &mut [BoundSubject]) -> Result<(), FieldError> {
    let mut taken: HashSet<String> = HashSet::new();
    for (index, new) in subjects.iter().enumerate() {
        let Some(name) = &new.name else { continue };
        let pointer = format!("/subjects/{index}/name");
        let is_plain = !name.trim().is_empty() && !name.contains(char::is_control);
        if !is_plain || name.chars().count() > MAX_NAME_CHARS {
            let detail = format!("a name is 1 to {MAX_NAME_CHARS} printable characters");
            return Err(FieldError::new(pointer, Code::InvalidValue, detail));
        }
        if !taken.insert(name.clone()) {
            let detail = format!("two subjects are called `{name}`");
            return Err(FieldError::new(pointer, Code::InvalidValue, detail));
        }
        bound[index].subject.name = name.clone();
    }
    for one in bound.iter_mut().filter(|one| one.subject.name.is_empty()) {
        let handles: Vec<String> =
            one.concepts.iter().map(|concept| concept.handle.to_string()).collect();
        let name = default_name(&one.subject, &handles);
        let numbered = (2..).map(|number| format!("{name} {number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !taken.contains(name));
        one.subject.name = free.unwrap_or(name);
        taken.insert(one.subject.name.clone());
    }
    Ok(())
}

/// The concepts of all subjects, each once, in the order of the subjects.
pub(super) fn concepts_of(subjects: &[BoundSubject]) -> Vec<ConceptRef> {
    let mut concepts = Vec::new();
    for concept in subjects.iter().flat_map(|subject| &subject.concepts) {
        let name = ConceptRef::Id(concept.concept_id);
        if !concepts.contains(&name) {
            concepts.push(name);
        }
    }
    concepts
}

/// The same errors, of a part of the request.
fn below(pointer: &str, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Invalid(Invalid(errors)) => {
            let moved = errors.into_iter().map(|error| FieldError {
                pointer: format!("{pointer}{}", error.pointer),
                ..error
            });
            Refusal::Invalid(Invalid(moved.collect()))
        }
        other @ (Refusal::NotFound { .. }
        | Refusal::Conflict(_)
        | Refusal::QueueFull { .. }
        | Refusal::NotReady { .. }
        | Refusal::Unavailable { .. }
        | Refusal::Internal(_)) => other,
    }
}
