//! Where a prompt names concepts.

use super::Span;
use crate::domain::concept::ConceptWords;

/// A place in a prompt where a concept is named: its modifier token with the class noun behind it, the token alone, or the
/// class noun of a concept that has no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mention {
    /// Which of the concepts.
    pub concept: usize,
    pub span: Span,
}

/// The mentions of concepts in a prompt, from left to right.
pub fn mentions(prompt: &str, concepts: &[&ConceptWords]) -> Vec<Mention> {
    let mut found: Vec<Mention> = Vec::new();
    for (concept, words) in concepts.iter().enumerate() {
        let Some(token) = &words.modifier_token else { continue };
        for (start, token) in prompt.match_indices(token.as_str()) {
            let after = start + token.len();
            let end = words_at(prompt, after, words.class_noun.as_str()).unwrap_or(after);
            found.push(Mention { concept, span: Span { start, end } });
        }
    }
    for (concept, words) in concepts.iter().enumerate() {
        if words.modifier_token.is_some() {
            continue;
        }
        for (start, _) in prompt.char_indices() {
            let Some(end) = words_at(prompt, start, words.class_noun.as_str()) else { continue };
            let is_word_start = !prompt[..start].ends_with(char::is_alphanumeric)
                && !prompt[start..].starts_with(char::is_whitespace);
            let is_free = |known: &Mention| known.span.end <= start || end <= known.span.start;
            if is_word_start && found.iter().all(is_free) {
                found.push(Mention { concept, span: Span { start, end } });
            }
        }
    }
    found.sort_by_key(|mention| mention.span.start);
    found
}

/// The end of these words if they stand at `start`, whatever their case and the white space before and between them.
fn words_at(text: &str, start: usize, words: &str) -> Option<usize> {
    let mut at = start;
    for word in words.split_whitespace() {
        let rest = &text[at..];
        let blank = rest.len() - rest.trim_start().len();
        let is_next_word = at > start && blank == 0;
        let mut letters = rest[blank..].char_indices();
        for wanted in word.chars() {
            let (_, letter) = letters.next()?;
            if is_next_word || !letter.to_lowercase().eq(wanted.to_lowercase()) {
                return None;
            }
        }
        at += blank + letters.offset();
    }
    match text[at..].starts_with(char::is_alphanumeric) {
        true => None,
        false => Some(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::concept::tests::words;

    fn named(prompt: &str, concepts: &[&ConceptWords]) -> Vec<(usize, String)> {
        let of = |mention: &Mention| {
            (mention.concept, prompt[mention.span.start..mention.span.end].to_owned())
        };
        mentions(prompt, concepts).iter().map(of).collect()
    }

    #[test]
    fn concepts_are_found_in_the_order_of_the_prompt() {
        let (rex, ted, gate) =
            (words(Some("<rex>"), "dog"), words(Some("<ted>"), "teddy bear"), words(None, "gate"));
        let all = [&rex, &ted, &gate];

        assert_eq!(
            named("a Gate, a <ted>  Teddy bear and a <rex> dog; <rex> runs", &all),
            [
                (2, "Gate".to_owned()),
                (1, "<ted>  Teddy bear".to_owned()),
                (0, "<rex> dog".to_owned()),
                (0, "<rex>".to_owned()),
            ]
        );
        assert_eq!(named("a <rex> doghouse by the gateway", &all), [(0, "<rex>".to_owned())]);
        assert_eq!(named("a dog", &all), []);
    }

    #[test]
    fn a_noun_behind_another_concepts_token_is_that_concepts() {
        let (arch, gate) = (words(Some("<arch>"), "gate"), words(None, "gate"));

        assert_eq!(
            named("a <arch> gate next to a gate", &[&arch, &gate]),
            [(0, "<arch> gate".to_owned()), (1, "gate".to_owned())]
        );
    }
}
