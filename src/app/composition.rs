//! How the concepts of a sample come into one picture.

use super::binding::Binding;
use crate::domain::code::Code;
use crate::domain::composition::mention::mentions;
use crate::domain::composition::options::{Composed, CompositionMethod, CompositionOptions};
use crate::domain::composition::plan::Participant;
use crate::domain::composition::{Composition, Regional};
use crate::domain::concept::{ConceptWords, ModifierToken, modifier_tokens_in};
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::model_info::ModelInfo;
use crate::domain::warning::Warning;

/// Resolves the options of a request. Without any, several deltas are composed by regions, unless the request says how they
/// are merged.
pub(super) fn compose(
    options: Option<CompositionOptions>,
    has_merge: bool,
    composed: Composed<'_>,
    model: &ModelInfo,
) -> Result<Composition, Invalid> {
    let deltas = composed.participants.iter().map(|one| one.delta + 1).max().unwrap_or(0);
    let default = default_method(has_merge, deltas);
    if let Some(CompositionOptions { method, .. }) = &options {
        check_applicable(*method, default, has_merge, deltas)?;
    }
    let has_layout_prompt = options.as_ref().is_some_and(|options| options.layout_prompt.is_some());
    let composition = options.unwrap_or_default().resolve(default, composed, "/composition")?;
    if let Composition::Regional(regional) = &composition {
        check_prompts(regional, has_layout_prompt, composed.participants, model)?;
    }
    Ok(composition)
}

/// The method of a request that names none.
pub(super) fn default_method(has_merge: bool, deltas: usize) -> CompositionMethod {
    match has_merge || deltas < 2 {
        true => CompositionMethod::Merge,
        false => CompositionMethod::Regional,
    }
}

fn check_applicable(
    method: Option<CompositionMethod>,
    default: CompositionMethod,
    has_merge: bool,
    deltas: usize,
) -> Result<(), FieldError> {
    let method = method.unwrap_or(default);
    if deltas == 0 {
        let detail = "the request names no concept, so there is nothing to compose: leave this out";
        return Err(FieldError::new("/composition", Code::NotApplicable, detail));
    }
    if has_merge && method != CompositionMethod::Merge {
        let detail = "only the method `merge` merges deltas: leave this out, or choose that method";
        return Err(FieldError::new("/merge", Code::ConflictingFields, detail));
    }
    Ok(())
}

/// Refuses prompts of the layout and of regions that would be cut, or name concepts that are not drawn there.
fn check_prompts(
    regional: &Regional,
    has_layout_prompt: bool,
    participants: &[Participant],
    model: &ModelInfo,
) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    let pointer = if has_layout_prompt { "/composition/layout_prompt" } else { "/prompt" };
    check_prompt(&mut checks, &regional.layout.prompt, &[], pointer, model);
    for (index, region) in regional.regions.iter().enumerate() {
        let own = participants.iter().filter(|one| one.delta == region.delta);
        let tokens: Vec<ModifierToken> =
            own.filter_map(|one| one.words.modifier_token.clone()).collect();
        let pointer = format!("/composition/regions/{index}/prompt");
        check_prompt(&mut checks, &region.prompt, &tokens, &pointer, model);
    }
    checks.finish()
}

/// - `tokens`: of the concepts that are drawn from this prompt
fn check_prompt(
    checks: &mut Checks,
    prompt: &str,
    tokens: &[ModifierToken],
    pointer: &str,
    model: &ModelInfo,
) {
    if let Err(error) = model.check_prompt(prompt, tokens, pointer) {
        checks.push(error);
        return;
    }
    let named = modifier_tokens_in(prompt).unwrap_or_default();
    let foreign =
        named.iter().find(|token| !tokens.contains(token) && !(model.has_token)(token.as_str()));
    checks.require(foreign.is_none(), pointer, Code::UnknownConcept, || {
        let token = foreign.map_or("", ModifierToken::as_str);
        match tokens {
            [] => format!("the base model draws this: leave {token} out"),
            _ => format!("this region is drawn with its own concept alone: leave {token} out"),
        }
    });
}

/// Warns of concepts that take part and are not drawn.
pub(super) fn unnamed(composition: &Composition, composed: Composed<'_>) -> Vec<Warning> {
    let words: Vec<&ConceptWords> = composed.participants.iter().map(|one| &one.words).collect();
    let mentions = mentions(composed.prompt, &words);
    let is_drawn = |index: usize, one: &Participant| match composition {
        // Its weights take part whatever the prompt says. A delta of several concepts is there by one of them.
        Composition::Merge => mentions.iter().any(|mention| {
            composed.participants.get(mention.concept).is_some_and(|it| it.delta == one.delta)
        }),
        Composition::Tokens => mentions.iter().any(|mention| mention.concept == index),
        Composition::Regional(regional) => {
            regional.regions.iter().any(|region| region.concept == one.handle)
        }
    };
    let lost =
        composed.participants.iter().enumerate().filter(|(index, one)| !is_drawn(*index, one));
    let warning = |(_, one): (usize, &Participant)| {
        let (handle, name) = (&one.handle, one.words.in_prompt());
        let detail = match composition {
            Composition::Merge | Composition::Tokens => format!(
                "concept `{handle}` takes part, and the prompt does not ask for it: name it as `{name}`"
            ),
            Composition::Regional(_) => format!(
                "concept `{handle}` is not drawn: name it in the prompt as `{name}`, or give it a region with a box"
            ),
        };
        Warning::new(Code::ConceptNotNamed, "/prompt", detail)
    };
    lost.map(warning).collect()
}

impl Binding {
    /// The concepts of the deltas, as a composition names them.
    pub(super) fn participants(&self) -> Vec<Participant> {
        let concepts = self.concepts.iter().filter_map(|concept| {
            let delta = self.deltas.iter().position(|used| used.delta_id == concept.delta_id)?;
            Some(Participant {
                handle: concept.handle.clone(),
                words: concept.words.clone(),
                delta,
            })
        });
        concepts.collect()
    }
}
