//! A prompt of an evaluation: as it is generated, and as the evaluator reads it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Subject;
use super::part::{Part, THINGS, parts};
use crate::domain::composition::mention::mentions;
use crate::domain::concept::{ConceptWords, modifier_tokens_in};

/// Stands for a concept's name in a prompt: the first for the first concept, the second for the second.
pub const PLACEHOLDER: &str = "{}";

/// A prompt, its placeholders filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EvaluationPrompt {
    /// What subjects with deltas generate.
    pub text: String,
    /// The same without modifier tokens: what the base model generates and what the images are compared with.
    pub plain: String,
    /// Whether the prompt names one of the concepts. The others show how far the concepts leak.
    pub names_concept: bool,
    /// The number of things that the image should show. From 2 to 4, each concept is scored in the part of the image that it
    /// has to itself.
    #[serde(default)]
    pub things: usize,
}

impl EvaluationPrompt {
    /// Fills in the concepts' names.
    ///
    /// # Errors
    /// A sentence, for more placeholders than concepts.
    pub fn new(template: &str, concepts: &[&ConceptWords]) -> Result<Self, String> {
        let placeholders = template.matches(PLACEHOLDER).count();
        if placeholders > concepts.len() {
            return Err(format!(
                "the prompt has {placeholders} placeholders `{PLACEHOLDER}` for {} concepts",
                concepts.len()
            ));
        }
        let mut text = template.to_owned();
        for words in concepts.iter().take(placeholders) {
            text = text.replacen(PLACEHOLDER, &words.in_prompt(), 1);
        }
        let plain = without_modifier_tokens(&text);
        let names_concept = concepts.iter().any(|words| names(&text, words));
        let things = mentions(&text, concepts).len();
        Ok(Self { text, plain, names_concept, things })
    }

    /// The concepts in the order in which the prompt names them, as places in `concepts`; one that is named twice is there
    /// twice.
    pub fn mentioned(&self, concepts: &[&ConceptWords]) -> Vec<usize> {
        mentions(&self.text, concepts).into_iter().map(|mention| mention.concept).collect()
    }

    /// Whether the image shows several things of which at least one is a concept, so that it is scored by parts.
    pub fn is_composition(&self) -> bool {
        self.names_concept && THINGS.contains(&self.things)
    }

    /// Whether the prompt names this concept.
    pub fn names(&self, words: &ConceptWords) -> bool {
        names(&self.text, words)
    }

    /// The parts of an image that things are looked for in; none if the image is no composition.
    pub fn parts(&self, width: u32, height: u32) -> Vec<Part> {
        match self.is_composition() {
            true => parts(width, height, self.things, has_depth(&self.plain)),
            false => Vec::new(),
        }
    }

    /// What is generated for a subject.
    pub fn for_subject(&self, subject: &Subject) -> &str {
        if subject.is_base() { &self.plain } else { &self.text }
    }
}

/// Words between things that stand one behind or above the other.
const DEPTH: [&str; 8] =
    ["in front of", "behind", "on top of", "under", "above", "below", "over", "beneath"];

fn has_depth(text: &str) -> bool {
    let words = format!(" {} ", text.to_lowercase().replace(|c: char| !c.is_alphanumeric(), " "));
    DEPTH.iter().any(|depth| words.contains(&format!(" {depth} ")))
}

/// A concept with a modifier token is named by that, one without by its class noun as whole words.
fn names(text: &str, words: &ConceptWords) -> bool {
    !mentions(text, &[words]).is_empty()
}

/// The text without what stands in angle brackets as a modifier token, and without the gaps that this leaves.
fn without_modifier_tokens(text: &str) -> String {
    let Ok(tokens) = modifier_tokens_in(text) else { return text.to_owned() };
    if tokens.is_empty() {
        return text.to_owned();
    }
    let mut plain = text.to_owned();
    for token in tokens {
        plain = plain.replace(token.as_str(), " ");
    }
    let plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    [",", ".", "!", "?", ";", ":"]
        .iter()
        .fold(plain, |plain, mark| plain.replace(&format!(" {mark}"), mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::concept::tests::words;

    #[test]
    fn a_placeholder_is_the_concepts_name_and_the_evaluator_reads_its_noun() {
        let (rex, gate) = (words(Some("<rex>"), "dog"), words(None, "gate"));

        let both = EvaluationPrompt::new("a {} in front of a {}", &[&rex, &gate]).unwrap();

        assert_eq!(both.text, "a <rex> dog in front of a gate");
        assert_eq!(both.plain, "a dog in front of a gate");
        assert!(both.names_concept);
        assert!(EvaluationPrompt::new("{} and {}", &[&rex]).is_err());
    }

    #[test]
    fn a_prompt_names_a_concept_by_its_token_or_by_its_noun_alone() {
        let (rex, gate) = (words(Some("<rex>"), "dog"), words(None, "gate"));
        let named = |text: &str, words: &ConceptWords| {
            EvaluationPrompt::new(text, &[words]).unwrap().names_concept
        };

        assert!(named("a photo of <rex>", &rex) && !named("a photo of a dog", &rex));
        assert!(named("a Gate, at night", &gate) && !named("a gateway", &gate));
    }

    #[test]
    fn concepts_are_found_in_the_order_of_the_prompt_each_time_that_they_are_named() {
        let (rex, gate, dog) =
            (words(Some("<rex>"), "dog"), words(None, "gate"), words(None, "dog"));
        let of = |text: &str| {
            let concepts = [&rex, &gate, &dog];
            let prompt = EvaluationPrompt::new(text, &concepts).unwrap();
            (prompt.mentioned(&concepts), prompt.things, prompt.is_composition())
        };

        assert_eq!(of("a gate next to a <rex> dog"), (vec![1, 0], 2, true));
        assert_eq!(of("a <rex> dog and a dog"), (vec![0, 2], 2, true));
        assert_eq!(of("two gates, a gate, a gate, a <rex>"), (vec![1, 1, 0], 3, true));
        assert_eq!(of("a <rex> dog next to a cake"), (vec![0], 1, false));
        assert_eq!(of("a cat next to a cake"), (vec![], 0, false));
    }

    #[test]
    fn things_one_behind_the_other_are_looked_for_in_upper_and_lower_halves_too() {
        let (rex, gate) = (words(Some("<rex>"), "dog"), words(None, "gate"));
        let count =
            |text: &str| EvaluationPrompt::new(text, &[&rex, &gate]).unwrap().parts(64, 64).len();

        assert_eq!(count("a <rex> dog in front of a gate"), 4);
        assert_eq!(count("a <rex> dog next to a gate, overexposed"), 2);
        assert_eq!(count("a <rex> dog in front of a house"), 0);
    }

    #[test]
    fn what_is_no_token_stays() {
        let rex = words(Some("<rex>"), "dog");
        let plain = |text: &str| EvaluationPrompt::new(text, &[&rex]).unwrap().plain;

        assert_eq!(plain("a  dog,  2 < 3"), "a  dog,  2 < 3");
        assert_eq!(plain("my <rex>, asleep"), "my, asleep");
    }
}
