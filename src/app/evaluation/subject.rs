//! From the subjects of a request to deltas.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::{NewEvaluation, NewSubject, default_name};
use crate::app::Refusal;
use crate::app::binding::bind;
use crate::app::composition::{compose, default_method};
use crate::app::sample::merge_recipe;
use crate::domain::code::Code;
use crate::domain::composition::options::{Composed, CompositionMethod};
use crate::domain::composition::plan::Participant;
use crate::domain::concept::ConceptRef;
use crate::domain::delta::DeltaConcept;
use crate::domain::evaluation::prompt::EvaluationPrompt;
use crate::domain::evaluation::{MAX_NAME_CHARS, Subject};
use crate::domain::id::ProjectId;
use crate::domain::invalid::{FieldError, Invalid};
use crate::domain::model_info::ModelInfo;
use crate::domain::sample::SampleSettings;

/// A subject with what its deltas contain.
pub(super) struct BoundSubject {
    pub(super) subject: Subject,
    pub(super) concepts: Vec<DeltaConcept>,
    participants: Vec<Participant>,
}

/// Resolves all subjects and gives each a name of its own.
pub(super) async fn bind_subjects(
    db: &mut PgConnection,
    project_id: ProjectId,
    model: &ModelInfo,
    subjects: &[NewSubject],
) -> Result<Vec<BoundSubject>, Refusal> {
    let mut bound = Vec::new();
    for (index, new) in subjects.iter().enumerate() {
        let pointer = format!("/subjects/{index}");
        bound.push(bind_subject(db, project_id, model, new, &pointer).await?);
    }
    name_subjects(subjects, &mut bound)?;
    Ok(bound)
}

async fn bind_subject(
    db: &mut PgConnection,
    project_id: ProjectId,
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
    let binding = bind(db, project_id, model, &new.concepts, &[]).await;
    let binding = binding.map_err(|refusal| below(pointer, refusal))?;
    let deltas = binding.deltas.len();
    let default = default_method(new.merge.is_some(), deltas);
    let method = new.composition.as_ref().and_then(|options| options.method).unwrap_or(default);
    let merged = if method == CompositionMethod::Merge { deltas } else { 0 };
    let merge = merge_recipe(new.merge.clone(), merged, model);
    let merge = merge.map_err(|invalid| below(pointer, invalid.into()))?;
    let participants = binding.participants();
    let (name, compositions) = (String::new(), Vec::new());
    let subject = Subject { name, deltas: binding.deltas, merge, compositions };
    Ok(BoundSubject { subject, concepts: binding.concepts, participants })
}

/// Plans how each subject's concepts come into the images of each prompt.
pub(super) fn compose_subjects(
    model: &ModelInfo,
    new: &NewEvaluation,
    negative_prompt: &str,
    prompts: &[(EvaluationPrompt, String)],
    settings: &SampleSettings,
    bound: &mut [BoundSubject],
) -> Result<(), Invalid> {
    for (index, (new, bound)) in new.subjects.iter().zip(bound).enumerate() {
        let participants = &bound.participants;
        let subject = &mut bound.subject;
        let composition_of = |(prompt, _): &(EvaluationPrompt, String)| {
            let composed = Composed {
                prompt: prompt.for_subject(subject),
                negative_prompt,
                participants,
                has_init_image: false,
                size: (settings.width, settings.height),
                num_inference_steps: settings.num_inference_steps,
            };
            compose(new.composition.clone(), new.merge.is_some(), composed, model)
        };
        let compositions = prompts.iter().map(composition_of).collect::<Result<_, Invalid>>();
        subject.compositions =
            compositions.map_err(|invalid| moved_below(&format!("/subjects/{index}"), invalid))?;
    }
    Ok(())
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
        Refusal::Invalid(invalid) => Refusal::Invalid(moved_below(pointer, invalid)),
        other @ (Refusal::NotFound { .. }
        | Refusal::Conflict(_)
        | Refusal::InUse(_)
        | Refusal::PreconditionFailed { .. }
        | Refusal::KeyInFlight
        | Refusal::KeyReused
        | Refusal::Unauthenticated { .. }
        | Refusal::Forbidden { .. }
        | Refusal::RateLimited { .. }
        | Refusal::QuotaExceeded { .. }
        | Refusal::QueueFull { .. }
        | Refusal::NotReady { .. }
        | Refusal::Overloaded
        | Refusal::Unavailable { .. }
        | Refusal::StoreFull { .. }
        | Refusal::ObjectLost { .. }
        | Refusal::Internal(_)) => other,
    }
}

fn moved_below(pointer: &str, Invalid(errors): Invalid) -> Invalid {
    let moved = errors
        .into_iter()
        .map(|error| FieldError { pointer: format!("{pointer}{}", error.pointer), ..error });
    Invalid(moved.collect())
}
