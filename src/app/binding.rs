//! From the names in a request to the deltas that they mean.
//!
//! A request names concepts in two ways: by modifier tokens in a prompt, and in its `concepts` list, which can also fix
//! the delta and the strength. Everything that does not resolve is refused here. Otherwise a prompt would silently give
//! an image of the base model alone.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::Refusal;
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::{Concept, ConceptRef, ModifierToken, modifier_tokens_in};
use crate::domain::delta::{Delta, DeltaConcept};
use crate::domain::delta_use::{ConceptUse, DeltaUse, MAX_DELTAS, STRENGTHS};
use crate::domain::id::{ConceptId, DeltaId, ProjectId};
use crate::domain::invalid::{FieldError, all_or_errors};
use crate::domain::model_info::{ModelInfo, check_text};
use crate::domain::number::decimal;

/// A modifier token and the field in which it stands.
#[derive(Debug)]
pub(super) struct NamedToken {
    token: ModifierToken,
    pointer: &'static str,
}

/// Reads the modifier tokens of a prompt.
pub(super) fn tokens_of(
    prompt: &str,
    pointer: &'static str,
) -> Result<Vec<NamedToken>, FieldError> {
    check_text(prompt, pointer)?;
    let tokens = modifier_tokens_in(prompt)
        .map_err(|error| FieldError::new(pointer, Code::UnknownConcept, error.to_string()))?;
    Ok(tokens.into_iter().map(|token| NamedToken { token, pointer }).collect())
}

/// The deltas that a request means.
#[derive(Debug, Default)]
pub(super) struct Binding {
    pub(super) deltas: Vec<DeltaUse>,
    /// What the deltas contain, in their order.
    pub(super) concepts: Vec<DeltaConcept>,
}

impl Binding {
    /// The modifier tokens that have a meaning.
    pub(super) fn modifier_tokens(&self) -> Vec<ModifierToken> {
        self.concepts.iter().filter_map(|concept| concept.words.modifier_token.clone()).collect()
    }

    fn covers(&self, token: &ModifierToken) -> bool {
        self.concepts.iter().any(|concept| concept.words.modifier_token.as_ref() == Some(token))
    }

    /// Resolves the entries of a `concepts` list.
    async fn bind_uses(
        &mut self,
        db: &mut PgConnection,
        project_id: ProjectId,
        model: &ModelInfo,
        uses: &[ConceptUse],
    ) -> Result<(), Refusal> {
        if uses.len() > MAX_DELTAS {
            let detail = format!(
                "{} entries, and at most {MAX_DELTAS} deltas can be combined: name fewer",
                uses.len()
            );
            return Err(FieldError::new("/concepts", Code::TooManyDeltas, detail).into());
        }
        let named = uses.iter().filter_map(|one| one.concept.as_ref());
        let concepts = named_concepts(db, project_id, named).await?;
        let wanted = uses.iter().enumerate().map(|(index, one)| resolve(index, one, &concepts));
        let wanted: Vec<Wanted> = all_or_errors(wanted)?;
        let loaded =
            Loaded::read(db, project_id, wanted.iter().map(|wanted| wanted.delta_id)).await?;
        for wanted in &wanted {
            let delta = loaded.delta_of(wanted)?;
            self.add(delta, wanted.strength, &loaded.contents, model, &wanted.pointer)?;
        }
        Ok(())
    }

    /// Resolves the tokens that have no meaning yet, each to the current delta of its concept.
    async fn bind_tokens(
        &mut self,
        db: &mut PgConnection,
        project_id: ProjectId,
        model: &ModelInfo,
        tokens: &[NamedToken],
    ) -> Result<(), Refusal> {
        let open: Vec<&NamedToken> =
            tokens.iter().filter(|named| !self.covers(&named.token)).collect();
        // Tokens of the vocabulary mean what they mean to the base model.
        let open: Vec<&NamedToken> =
            open.into_iter().filter(|named| !(model.has_token)(named.token.as_str())).collect();
        let names: Vec<ModifierToken> = open.iter().map(|named| named.token.clone()).collect();
        let concepts = db::concept::find(&mut *db, project_id, &[], &[], &names).await?;
        let current = all_or_errors(open.iter().map(|named| resolve_token(named, &concepts)))?;
        let loaded = Loaded::read(db, project_id, current.iter().copied()).await?;
        for (named, delta_id) in open.iter().zip(&current) {
            if self.covers(&named.token) {
                continue; // by the delta of a token before it: they were trained jointly
            }
            let delta = loaded.deltas.get(delta_id);
            let delta = delta.ok_or_else(Refusal::deleted_meanwhile)?;
            self.add(delta, 1.0, &loaded.contents, model, named.pointer)?;
        }
        Ok(())
    }

    /// Adds a delta once. It may be named again with the same strength.
    fn add(
        &mut self,
        delta: &Delta,
        strength: f64,
        contents: &[DeltaConcept],
        model: &ModelInfo,
        pointer: &str,
    ) -> Result<(), FieldError> {
        check_base_model(delta, model, pointer)?;
        if let Some(known) = self.deltas.iter().find(|known| known.delta_id == delta.delta_id) {
            if known.strength.to_bits() == strength.to_bits() {
                return Ok(());
            }
            let detail = format!("`{}` is one delta and has one strength", delta.delta_id);
            return Err(FieldError::new(pointer, Code::AmbiguousStrength, detail));
        }
        for concept in contents.iter().filter(|concept| concept.delta_id == delta.delta_id) {
            self.add_concept(concept, pointer)?;
        }
        self.deltas.push(delta.used_at(strength));
        if self.deltas.len() > MAX_DELTAS {
            let detail = format!("at most {MAX_DELTAS} deltas can be combined");
            return Err(FieldError::new(pointer, Code::TooManyDeltas, detail));
        }
        Ok(())
    }

    /// Adds a concept, unless a prompt could not distinguish it from one that has been added.
    fn add_concept(&mut self, concept: &DeltaConcept, pointer: &str) -> Result<(), FieldError> {
        let ambiguous = |detail| Err(FieldError::new(pointer, Code::AmbiguousConcept, detail));
        let twice = self.concepts.iter().find(|known| known.concept_id == concept.concept_id);
        if let Some(known) = twice {
            return ambiguous(format!(
                "concept `{}` is in `{}` and in `{}`: name one delta for it",
                concept.handle, known.delta_id, concept.delta_id
            ));
        }
        if let Some(known) = self.concepts.iter().find(|known| same_word(known, concept)) {
            return ambiguous(format!(
                "`{}` and `{}` both teach the bare noun `{}`: give one a modifier token, or train them jointly",
                known.handle, concept.handle, concept.words.class_noun
            ));
        }
        self.concepts.push(concept.clone());
        Ok(())
    }
}

/// Refuses a delta of another base model.
pub(super) fn check_base_model(
    delta: &Delta,
    model: &ModelInfo,
    pointer: &str,
) -> Result<(), FieldError> {
    if delta.base_digest == model.digest {
        return Ok(());
    }
    let detail = format!(
        "`{}` was made for base model {:.12}, this service has {} ({:.12}): train the concept again",
        delta.delta_id, delta.base_digest, model.name, model.digest
    );
    Err(FieldError::new(pointer, Code::BaseModelMismatch, detail))
}

/// Whether a prompt could not distinguish these two.
fn same_word(a: &DeltaConcept, b: &DeltaConcept) -> bool {
    a.delta_id != b.delta_id
        && a.words.modifier_token.is_none()
        && b.words.modifier_token.is_none()
        && a.words.class_noun == b.words.class_noun
}

/// Resolves a `concepts` list, then the tokens that it does not cover.
pub(super) async fn bind(
    db: &mut PgConnection,
    project_id: ProjectId,
    model: &ModelInfo,
    uses: &[ConceptUse],
    tokens: &[NamedToken],
) -> Result<Binding, Refusal> {
    let mut binding = Binding::default();
    binding.bind_uses(db, project_id, model, uses).await?;
    binding.bind_tokens(db, project_id, model, tokens).await?;
    Ok(binding)
}

/// Finds the project's concepts that are named by id or by handle.
pub(super) async fn named_concepts(
    db: &mut PgConnection,
    project_id: ProjectId,
    names: impl Iterator<Item = &ConceptRef>,
) -> sqlx::Result<Vec<Concept>> {
    let (mut ids, mut handles) = (Vec::new(), Vec::new());
    for name in names {
        match name {
            ConceptRef::Id(id) => ids.push(*id),
            ConceptRef::Handle(handle) => handles.push(handle.as_str().to_owned()),
        }
    }
    if ids.is_empty() && handles.is_empty() {
        return Ok(Vec::new()); // most requests name their concepts by tokens alone
    }
    db::concept::find(db, project_id, &ids, &handles, &[]).await
}

/// Finds one of them, or returns the error of the field that names nothing.
pub(super) fn concept_named<'a>(
    name: &ConceptRef,
    concepts: &'a [Concept],
    pointer: &str,
) -> Result<&'a Concept, FieldError> {
    concepts.iter().find(|concept| name.names(concept)).ok_or_else(|| {
        let detail = format!("no concept `{name}`: create it with POST /v1/concepts");
        FieldError::new(pointer, Code::UnknownConcept, detail)
    })
}

/// A delta that an entry of a `concepts` list asks for.
struct Wanted {
    pointer: String,
    concept_id: Option<ConceptId>,
    delta_id: DeltaId,
    strength: f64,
}

fn resolve(index: usize, one: &ConceptUse, concepts: &[Concept]) -> Result<Wanted, FieldError> {
    let pointer = format!("/concepts/{index}");
    let strength = decimal(one.strength.unwrap_or(1.0));
    if !STRENGTHS.contains(&strength) {
        let detail = format!("{strength} is outside {} to {}", STRENGTHS.start(), STRENGTHS.end());
        return Err(FieldError::new(format!("{pointer}/strength"), Code::OutOfRange, detail));
    }
    let concept = match &one.concept {
        Some(name) => Some(concept_named(name, concepts, &format!("{pointer}/concept"))?),
        None => None,
    };
    let delta_id = match (one.delta, concept) {
        (Some(delta_id), _) => delta_id,
        (None, Some(concept)) => current_delta(concept, &pointer)?,
        (None, None) => {
            return Err(FieldError::new(
                pointer,
                Code::MissingField,
                "name a concept, a delta or both",
            ));
        }
    };
    Ok(Wanted {
        pointer,
        concept_id: concept.map(|concept| concept.concept_id),
        delta_id,
        strength,
    })
}

fn resolve_token(named: &NamedToken, concepts: &[Concept]) -> Result<DeltaId, FieldError> {
    let token = &named.token;
    let concept =
        concepts.iter().find(|concept| concept.words.modifier_token.as_ref() == Some(token));
    let concept = concept.ok_or_else(|| {
        let detail = format!("no concept has the modifier token `{token}`: create and train one, or leave the word out");
        FieldError::new(named.pointer, Code::UnknownConcept, detail)
    })?;
    current_delta(concept, named.pointer)
}

fn current_delta(concept: &Concept, pointer: &str) -> Result<DeltaId, FieldError> {
    concept.current_delta.ok_or_else(|| {
        let detail =
            format!("concept `{}` has not been trained: POST /v1/trainings, and wait until it has succeeded", concept.handle);
        FieldError::new(pointer, Code::ConceptNotTrained, detail)
    })
}

/// Deltas and what they contain.
#[derive(Default)]
struct Loaded {
    deltas: HashMap<DeltaId, Delta>,
    contents: Vec<DeltaConcept>,
}

impl Loaded {
    async fn read(
        db: &mut PgConnection,
        project_id: ProjectId,
        deltas: impl Iterator<Item = DeltaId>,
    ) -> sqlx::Result<Self> {
        let ids: Vec<DeltaId> = deltas.collect();
        if ids.is_empty() {
            return Ok(Self::default());
        }
        let deltas = db::delta::find(&mut *db, project_id, &ids).await?;
        let deltas = deltas.into_iter().map(|delta| (delta.delta_id, delta)).collect();
        Ok(Self { deltas, contents: db::delta::concepts_of(&mut *db, &ids).await? })
    }

    /// The delta that is asked for, if it is there and contains the concept that it is asked for.
    fn delta_of(&self, wanted: &Wanted) -> Result<&Delta, FieldError> {
        let pointer = || format!("{}/delta", wanted.pointer);
        let delta = self.deltas.get(&wanted.delta_id).ok_or_else(|| {
            let detail =
                format!("no delta `{}`: GET /v1/deltas lists those that exist", wanted.delta_id);
            FieldError::new(pointer(), Code::UnknownDelta, detail)
        })?;
        let contains = |concept: ConceptId| {
            let mut contents = self.contents.iter();
            contents.any(|part| part.delta_id == delta.delta_id && part.concept_id == concept)
        };
        if wanted.concept_id.is_none_or(contains) {
            return Ok(delta);
        }
        let detail = format!("`{}` is not a delta of this concept", delta.delta_id);
        Err(FieldError::new(pointer(), Code::DeltaOfAnotherConcept, detail))
    }
}
