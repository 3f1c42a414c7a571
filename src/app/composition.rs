//! How the concepts of a sample come into one picture.

use super::binding::Binding;
use crate::domain::code::Code;
use crate::domain::composition::options::{Composed, CompositionMethod, CompositionOptions};
use crate::domain::composition::plan::Participant;
use crate::domain::composition::{Composition, Regional};
use crate::domain::concept::ModifierToken;
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::model_info::ModelInfo;

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
        let tokens: Vec<ModifierToken> = composed
            .participants
            .iter()
            .filter_map(|one| one.words.modifier_token.clone())
            .collect();
        check_prompts(regional, has_layout_prompt, &tokens, model)?;
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

/// Refuses prompts of the layout and of regions that would be cut.
fn check_prompts(
    regional: &Regional,
    has_layout_prompt: bool,
    tokens: &[ModifierToken],
    model: &ModelInfo,
) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    let pointer = if has_layout_prompt { "/composition/layout_prompt" } else { "/prompt" };
    let layout = [(&regional.layout.prompt, pointer.to_owned())];
    let regions = regional.regions.iter().enumerate();
    let regions = regions
        .map(|(index, region)| (&region.prompt, format!("/composition/regions/{index}/prompt")));
    for (prompt, pointer) in layout.into_iter().chain(regions) {
        if let Err(error) = model.check_prompt(prompt, tokens, &pointer) {
            checks.push(error);
        }
    }
    checks.finish()
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
