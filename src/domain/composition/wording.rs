//! The words of a prompt that belong to one of its concepts, and those that join it to the next.

use super::mention::Mention;
use crate::domain::concept::{ConceptWords, modifier_tokens_in};

/// What joins each mention to the next.
pub(super) fn joints<'a>(prompt: &'a str, mentions: &[Mention]) -> Vec<&'a str> {
    let between = |pair: &[Mention]| joint(&prompt[pair[0].span.end..pair[1].span.start]);
    mentions.windows(2).map(between).collect()
}

/// Words that join one thing to the next. What stands before them belongs to the first thing, what follows to the second.
const JOINTS: [&str; 16] = [
    "and",
    "next to",
    "beside",
    "near",
    "by",
    "with",
    "in front of",
    "behind",
    "on top of",
    "on",
    "under",
    "above",
    "below",
    "inside",
    "between",
    "or",
];

/// The prompt with one of its concepts alone.
pub(super) fn alone(
    prompt: &str,
    mentions: &[Mention],
    index: usize,
    words: &ConceptWords,
) -> String {
    let first = mentions[0].span.start;
    let last = mentions[mentions.len() - 1].span.end;
    let head = &prompt[..first];
    let (before, after) = (
        match index {
            0 => head.to_owned(),
            _ => {
                // "photo of", not the article and the adjectives of the first thing
                let kind = head.rfind(" of ").map_or("", |at| &head[..at + 4]);
                let between = &prompt[mentions[index - 1].span.end..mentions[index].span.start];
                format!("{kind}{}", split_at_joint(between).1.trim_start())
            }
        },
        match mentions.get(index + 1) {
            None => "",
            Some(next) => {
                split_at_joint(&prompt[mentions[index].span.end..next.span.start]).0.trim_end()
            }
        },
    );
    format!("{before}{}{after}{}", words.in_prompt(), &prompt[last..])
}

/// What stands before and after the last joint. Without one, the last word, as an article, belongs to what follows.
fn split_at_joint(text: &str) -> (&str, &str) {
    match last_joint(text) {
        Some((start, joint)) => (&text[..start], &text[start + joint.len()..]),
        None => match text.trim_end().rfind(char::is_whitespace) {
            Some(space) => text.split_at(space + 1),
            None => ("", text),
        },
    }
}

/// The word that joins what stands before it to what follows; empty if there is none.
fn joint(text: &str) -> &str {
    last_joint(text).map_or("", |(_, joint)| joint)
}

fn last_joint(text: &str) -> Option<(usize, &str)> {
    let is_letter = |c: char| c.is_alphanumeric();
    let lower = text.to_ascii_lowercase(); // the same bytes in length
    let joints = JOINTS.iter().flat_map(|joint| {
        let found = lower.match_indices(joint).map(|(start, joint)| (start, joint.len()));
        let found = found.filter(|(start, length)| {
            !lower[..*start].ends_with(is_letter) && !lower[start + length..].starts_with(is_letter)
        });
        found.map(|(start, length)| (start, &text[start..start + length]))
    });
    let commas = text.match_indices(',').filter(|(at, _)| {
        let next = text[at + 1..].split_whitespace().next();
        next.is_none_or(|word| ARTICLES.iter().any(|article| word.eq_ignore_ascii_case(article))) // not the comma of "a big, red"
    });
    // "in front of" has no other joint in it that ends where it does; "on top of" neither.
    joints.chain(commas).max_by_key(|(start, joint)| (start + joint.len(), joint.len()))
}

/// Words that begin the name of a thing.
const ARTICLES: [&str; 8] = ["a", "an", "the", "my", "your", "his", "her", "our"];

/// The text with the modifier token of one concept at most.
pub(super) fn plain(text: &str, of: Option<&ConceptWords>) -> String {
    let Ok(tokens) = modifier_tokens_in(text) else { return text.to_owned() };
    let own = of.and_then(|words| words.modifier_token.as_ref());
    let others = tokens.iter().filter(|token| Some(*token) != own);
    let mut plain = text.to_owned();
    for token in others {
        plain = plain.replace(&format!("{token} "), "").replace(token.as_str(), "");
    }
    plain
}
