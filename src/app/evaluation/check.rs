//! What a request for an evaluation can tell before anything is generated.

use std::collections::HashSet;

use super::NewEvaluation;
use super::subject::BoundSubject;
use crate::domain::code::Code;
use crate::domain::concept::{Concept, ConceptWords, ModifierToken, modifier_tokens_in};
use crate::domain::evaluation::prompt::EvaluationPrompt;
use crate::domain::evaluation::{
    CONCEPTS, EvaluationTask, IMAGES_PER_PROMPT, IMAGES_PER_SAMPLE, KID_SUBSETS, PROMPTS, SUBJECTS,
};
use crate::domain::image::{Image, ImageSource};
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::model_info::{ModelInfo, check_text};
use crate::domain::sample::SampleSettings;
use crate::evaluator::Evaluator;

/// The most bytes of captions that the samples of one subject keep together.
const MAX_STORED_CAPTIONS: usize = 32 * 1024 * 1024;

/// Refuses numbers out of their ranges.
pub(super) fn check_numbers(new: &NewEvaluation, images_per_prompt: usize) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    checks.in_range(new.subjects.len(), SUBJECTS, "/subjects");
    checks.in_range(new.concepts.len(), 0..=*CONCEPTS.end(), "/concepts");
    let of_set = new.prompt_set.map_or(0, |set| set.prompts().len());
    if new.prompts.is_empty() && of_set == 0 {
        let detail = "an evaluation needs prompts or a prompt_set";
        checks.push(FieldError::new("/prompts", Code::MissingField, detail));
    } else {
        checks.in_range(new.prompts.len() + of_set, PROMPTS, "/prompts");
    }
    for (index, prompt) in new.prompts.iter().enumerate().take(*PROMPTS.end()) {
        if let Err(error) = check_text(&prompt.text, &format!("/prompts/{index}")) {
            checks.push(error);
        }
    }
    checks.in_range(images_per_prompt, IMAGES_PER_PROMPT, "/images_per_prompt");
    checks.finish()
}

/// Refuses images of a size that the evaluator's settings do not bring to its own.
pub(super) fn check_evaluator(
    evaluator: &Evaluator,
    settings: &SampleSettings,
) -> Result<(), FieldError> {
    let pixels = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
    let (width, height) = (pixels(settings.width), pixels(settings.height));
    evaluator.check_image(width, height).map_err(|error| {
        let detail = format!("the evaluator cannot take it: {error}");
        FieldError::new("/width", Code::NotApplicable, detail)
    })
}

/// Refuses prompts that are scored by parts if the evaluator's settings do not bring a part to its own size.
pub(super) fn check_parts(
    evaluator: &Evaluator,
    prompts: &[(EvaluationPrompt, String)],
    settings: &SampleSettings,
) -> Result<(), FieldError> {
    let pixels = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
    for (prompt, pointer) in prompts {
        for part in prompt.parts(pixels(settings.width), pixels(settings.height)) {
            evaluator.check_image(part.side, part.side).map_err(|error| {
                let detail = format!("the evaluator cannot take a part of its images: {error}");
                FieldError::new(pointer, Code::NotApplicable, detail)
            })?;
        }
    }
    Ok(())
}

pub(super) fn check_different(concepts: &[&Concept]) -> Result<(), FieldError> {
    for (index, concept) in concepts.iter().enumerate() {
        if concepts[..index].iter().any(|other| other.concept_id == concept.concept_id) {
            let pointer = format!("/concepts/{index}");
            let detail = format!("concept `{}` is named twice", concept.handle);
            return Err(FieldError::new(pointer, Code::AmbiguousConcept, detail));
        }
    }
    Ok(())
}

/// Refuses a subject that does not contain one of the concepts: it would be compared with photos that it has never seen.
pub(super) fn check_contained(
    concepts: &[&Concept],
    subjects: &[BoundSubject],
) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    for (index, bound) in subjects.iter().enumerate().filter(|(_, one)| !one.subject.is_base()) {
        for concept in concepts {
            let contains = bound.concepts.iter().any(|one| one.concept_id == concept.concept_id);
            let pointer = format!("/subjects/{index}/concepts");
            checks.require(contains, &pointer, Code::DeltaOfAnotherConcept, || {
                format!(
                    "no delta of this subject contains concept `{}`: name one, or start an evaluation for each concept",
                    concept.handle
                )
            });
        }
    }
    checks.finish()
}

/// Refuses concepts without photos, and photos of a size that the evaluator's settings do not bring to its own.
pub(super) fn check_photos(
    evaluator: &Evaluator,
    concepts: &[&Concept],
    images: &[Image],
) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    for image in images {
        let ImageSource::Photo { concept_id, file_name } = &image.source else { continue };
        let index = concepts.iter().position(|concept| concept.concept_id == *concept_id);
        let (width, height) = (image.width.unsigned_abs(), image.height.unsigned_abs());
        if let (Some(index), Err(error)) = (index, evaluator.check_image(width, height)) {
            let name = file_name.clone().unwrap_or_else(|| image.image_id.to_string());
            let detail = format!("photo `{name}`: the evaluator cannot take it: {error}");
            checks.push(FieldError::new(format!("/concepts/{index}"), Code::NotApplicable, detail));
        }
    }
    checks.finish()
}

/// Refuses prompts that base model or evaluator would cut, that are there twice, or that name what a subject does not have.
pub(super) fn check_prompts(
    model: &ModelInfo,
    evaluator: &Evaluator,
    prompts: &[(EvaluationPrompt, String)],
    subjects: &[BoundSubject],
    concepts: &[ConceptWords],
) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    let mut seen = HashSet::new();
    for (prompt, pointer) in prompts {
        // CLIP's tokenizers read neither upper case nor how many blanks there are.
        let words: Vec<String> = prompt.text.split_whitespace().map(str::to_lowercase).collect();
        checks.require(seen.insert(words.join(" ")), pointer, Code::InvalidValue, || {
            format!("prompt `{}` is there twice", prompt.text)
        });
        let tokens = match modifier_tokens_in(&prompt.text) {
            Ok(tokens) => tokens,
            Err(error) => {
                checks.push(FieldError::new(pointer, Code::UnknownConcept, error.to_string()));
                continue;
            }
        };
        if let Err(error) = model.check_prompt(&prompt.text, &tokens, pointer) {
            checks.push(error);
        } else if let Err(error) = check_for_evaluator(evaluator, &prompt.plain, pointer) {
            checks.push(error);
        }
        if let Err(error) = check_tokens(&tokens, subjects, concepts, pointer) {
            checks.push(error);
        }
    }
    checks.finish()
}

/// Refuses a negative prompt that the base model would cut, or that names what a subject does not have. All subjects have
/// the same one, the base model too.
pub(super) fn check_negative_prompt(
    model: &ModelInfo,
    text: &str,
    subjects: &[BoundSubject],
    settings: &SampleSettings,
) -> Result<(), FieldError> {
    let pointer = "/negative_prompt";
    check_text(text, pointer)?;
    let tokens = modifier_tokens_in(text)
        .map_err(|error| FieldError::new(pointer, Code::UnknownConcept, error.to_string()))?;
    model.check_prompt(text, &tokens, pointer)?;
    for token in &tokens {
        if let Some(one) = subjects.iter().find(|one| !knows(one, token)) {
            return Err(unknown_token(one, token, pointer));
        }
    }
    if !tokens.is_empty() && settings.unconditional_strength <= 0.0 {
        let detail = "at 0 the negative prompt sees no concept, and this one names some";
        return Err(FieldError::new("/unconditional_strength", Code::ConflictingFields, detail));
    }
    Ok(())
}

/// Refuses a text that the evaluator would cut. Its limit can be another than the base model's.
fn check_for_evaluator(evaluator: &Evaluator, text: &str, pointer: &str) -> Result<(), FieldError> {
    let (name, limit) = (&evaluator.info().name, evaluator.info().max_text_tokens);
    let detail = match evaluator.count_tokens(text) {
        Ok(tokens) if tokens <= limit => return Ok(()),
        Ok(tokens) => format!(
            "`{text}` has {tokens} tokens with begin and end for evaluator `{name}`, and {limit} fit: shorten the text"
        ),
        Err(error) => format!("evaluator `{name}` cannot read `{text}`: {error}"),
    };
    Err(FieldError::new(pointer, Code::PromptTooLong, detail))
}

/// Every subject with deltas has to know every token; the base model alone leaves out those of the concepts.
fn check_tokens(
    tokens: &[ModifierToken],
    subjects: &[BoundSubject],
    concepts: &[ConceptWords],
    pointer: &str,
) -> Result<(), FieldError> {
    let with_deltas = || subjects.iter().filter(|one| !one.subject.is_base());
    for token in tokens {
        if let Some(one) = with_deltas().find(|one| !knows(one, token)) {
            return Err(unknown_token(one, token, pointer));
        }
        let is_named = concepts.iter().any(|words| words.modifier_token.as_ref() == Some(token));
        if with_deltas().next().is_none() && !is_named {
            let detail = format!("none of the concepts has the modifier token `{token}`");
            return Err(FieldError::new(pointer, Code::UnknownConcept, detail));
        }
    }
    Ok(())
}

fn knows(one: &BoundSubject, token: &ModifierToken) -> bool {
    one.concepts.iter().any(|concept| concept.words.modifier_token.as_ref() == Some(token))
}

fn unknown_token(one: &BoundSubject, token: &ModifierToken, pointer: &str) -> FieldError {
    let detail =
        format!("subject `{}` has no concept with the modifier token `{token}`", one.subject.name);
    FieldError::new(pointer, Code::UnknownConcept, detail)
}

/// Refuses captions of a merge that would be stored with very many samples.
pub(super) fn check_captions(task: &EvaluationTask) -> Result<(), FieldError> {
    let samples = task.prompts.len() * task.settings.n.div_ceil(IMAGES_PER_SAMPLE);
    for (index, subject) in task.subjects.iter().enumerate() {
        let captions = subject.merge.captions.iter().flatten();
        let size_bytes: usize = captions.map(String::len).sum();
        if size_bytes * samples > MAX_STORED_CAPTIONS {
            let pointer = format!("/subjects/{index}/merge/captions");
            let detail = format!(
                "each of {samples} samples would keep its own copy of these {size_bytes} bytes: merge once with \
                 POST /v1/merges, and name that delta"
            );
            return Err(FieldError::new(pointer, Code::OutOfRange, detail));
        }
    }
    Ok(())
}

/// Refuses subsets that one of the two sides is too small for.
pub(super) fn check_subsets(
    task: &EvaluationTask,
    held_out: usize,
    subset_size: Option<usize>,
) -> Result<(), FieldError> {
    let pointer = "/held_out/subset_size";
    let named = task.prompts.iter().filter(|prompt| prompt.names_concept).count();
    let generated = task.settings.n * named.max(task.prompts.len() - named);
    let smaller = generated.min(held_out);
    if smaller < *KID_SUBSETS.start() {
        let detail = format!(
            "a distance needs two images of each side: {generated} are generated, {held_out} held out"
        );
        return Err(FieldError::new("/held_out", Code::DatasetTooSmall, detail));
    }
    let Some(size) = subset_size else { return Ok(()) };
    if !KID_SUBSETS.contains(&size) {
        let detail = format!("{size} is outside {} to {}", KID_SUBSETS.start(), KID_SUBSETS.end());
        return Err(FieldError::new(pointer, Code::OutOfRange, detail));
    }
    if size > smaller {
        let detail = format!(
            "subsets of {size} need as many images of each side: {generated} are generated, {held_out} held out"
        );
        return Err(FieldError::new(pointer, Code::DatasetTooSmall, detail));
    }
    Ok(())
}
