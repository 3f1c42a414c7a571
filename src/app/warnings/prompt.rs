//! Words of a prompt that do not mean what they seem to mean.

use sqlx::PgConnection;

use crate::app::Refusal;
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::{Concept, ConceptWords, ModifierToken};
use crate::domain::id::{ConceptId, ProjectId};
use crate::domain::warning::Warning;

/// The most words of a prompt in which names are looked for: no text encoder takes more.
const MAX_WORDS: usize = 128;

/// The most words of a class noun.
const MAX_NAME_WORDS: usize = 4;

/// The most concepts that one warning names.
const MAX_NAMED: usize = 3;

/// Warns of concepts that a prompt names by their handles, class nouns or bare tokens, and that take no part.
///
/// - `participants`: the concepts that take part, with their words
pub(in crate::app) async fn not_applied(
    db: &mut PgConnection,
    project_id: ProjectId,
    prompt: &str,
    pointer: &str,
    participants: &[(ConceptId, &ConceptWords)],
) -> Result<Vec<Warning>, Refusal> {
    let names = names_in(prompt);
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let found = db::concept::trained_of_names(db, project_id, &names).await?;
    let others = found.into_iter().filter(|concept| {
        !participants.iter().any(|(concept_id, _)| *concept_id == concept.concept_id)
    });
    Ok(of_others(&others.collect::<Vec<_>>(), &names, pointer, participants))
}

/// - `others`: concepts that the prompt may mean and that take no part
fn of_others(
    others: &[Concept],
    names: &[String],
    pointer: &str,
    participants: &[(ConceptId, &ConceptWords)],
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    // A noun that a participant has is that one's.
    let is_taken = |noun: &str| {
        participants.iter().any(|(_, words)| words.class_noun.as_str().to_lowercase() == noun)
    };
    let mut of_nouns: Vec<(String, Vec<&Concept>)> = Vec::new();
    for concept in others {
        if let Some(word) = own_name(concept, names) {
            warnings.push(of_names(word, &[concept], pointer));
            continue;
        }
        let noun = concept.words.class_noun.as_str().to_lowercase();
        match of_nouns.iter_mut().find(|(known, _)| *known == noun) {
            Some((_, concepts)) => concepts.push(concept),
            None if is_taken(&noun) => {}
            None => of_nouns.push((noun, vec![concept])),
        }
    }
    warnings.extend(of_nouns.iter().map(|(noun, concepts)| of_names(noun, concepts, pointer)));
    warnings
}

/// The handle, or the word of the modifier token, if the prompt has it.
fn own_name<'a>(concept: &Concept, names: &'a [String]) -> Option<&'a str> {
    let token = concept.words.modifier_token.as_ref().map(word_of);
    let is_own =
        |name: &&String| name.as_str() == concept.handle.as_str() || Some(name.as_str()) == token;
    names.iter().find(is_own).map(String::as_str)
}

fn word_of(token: &ModifierToken) -> &str {
    token.as_str().trim_matches(['<', '>'])
}

fn of_names(word: &str, concepts: &[&Concept], pointer: &str) -> Warning {
    let how = |concept: &&Concept| match concept.words.modifier_token {
        Some(_) => format!("`{}` for the concept `{}`", concept.words.in_prompt(), concept.handle),
        None => format!("`{}` in `concepts`, which has no token", concept.handle),
    };
    let hows: Vec<String> = concepts.iter().take(MAX_NAMED).map(how).collect();
    let detail = format!(
        "`{word}` is an ordinary word here and brings in no concept: if you mean one, write {}",
        hows.join(", or ")
    );
    Warning::new(Code::ConceptNotApplied, pointer, detail)
}

/// The words of a prompt and its runs of up to four words, in lower case: what handles and class nouns are compared with.
/// Tokens in angle brackets are left out.
fn names_in(prompt: &str) -> Vec<String> {
    let mut runs: Vec<Vec<String>> = vec![Vec::new()];
    let mut rest = prompt;
    let is_of_word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '\'' | '’');
    let mut count = 0;
    while let Some(start) = rest.find(|c: char| is_of_word(c) || c == '<') {
        if !rest[..start].trim().is_empty() {
            runs.push(Vec::new()); // punctuation between words
        }
        rest = &rest[start..];
        if rest.starts_with('<') {
            let token =
                rest[1..].find(['<', '>', ' ']).filter(|end| rest[1 + end..].starts_with('>'));
            rest = &rest[token.map_or(1, |end| end + 2)..];
            // Its class noun may follow, and is a name all the same: participants are left out later.
            runs.push(Vec::new());
            continue;
        }
        let end = rest.find(|c: char| !is_of_word(c)).unwrap_or(rest.len());
        let word = rest[..end].to_lowercase();
        let word = word.strip_suffix("'s").or_else(|| word.strip_suffix("’s")).unwrap_or(&word);
        if let Some(run) = runs.last_mut() {
            run.push(word.to_owned());
        }
        rest = &rest[end..];
        count += 1;
        if count == MAX_WORDS {
            break;
        }
    }
    let mut names: Vec<String> = Vec::new();
    for run in &runs {
        for start in 0..run.len() {
            for end in start + 1..=run.len().min(start + MAX_NAME_WORDS) {
                let words = &run[start..end];
                names.push(words.join(" "));
                if words.len() > 1 {
                    names.extend([words.join("-"), words.join("_")]); // as a handle
                }
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Warns of what other programs read and this one does not: weights, and tokens with blanks in their brackets.
pub(in crate::app) fn not_read(prompt: &str, pointer: &str) -> Vec<Warning> {
    let weights = weight_in(prompt).map(|text| {
        let detail = format!(
            "`{text}` is read as ordinary text, not as a weight: leave it out, or give the concept a `strength` in `concepts`"
        );
        Warning::new(Code::WeightsIgnored, pointer, detail)
    });
    let token = spaced_token(prompt).map(|(text, token)| {
        let detail =
            format!("`{text}` is read as ordinary words: write `{token}` if you mean the token");
        Warning::new(Code::UnknownToken, pointer, detail)
    });
    weights.into_iter().chain(token).collect()
}

/// `(word:1.2)`, `((word))` or `[word]`.
fn weight_in(prompt: &str) -> Option<&str> {
    let shown = |start: usize, end: usize| (end - start <= 80).then(|| &prompt[start..end]);
    for (start, _) in prompt.match_indices('(') {
        let rest = &prompt[start + 1..];
        let Some(end) = rest.find([')', '(']) else { continue };
        if rest[end..].starts_with(')')
            && let Some((_, number)) = rest[..end].rsplit_once(':')
            && number.trim().parse::<f64>().is_ok()
        {
            return shown(start, start + 1 + end + 1).or(Some("(…:1)"));
        }
    }
    for (open, close) in [("((", "))"), ("[", "]"), ("{", "}")] {
        if let Some(start) = prompt.find(open)
            && let Some(length) = prompt[start..].find(close)
        {
            return shown(start, start + length + close.len()).or(Some(open));
        }
    }
    None
}

/// A token with blanks in its brackets, as it stands there and as it should.
fn spaced_token(prompt: &str) -> Option<(&str, ModifierToken)> {
    prompt.match_indices('<').find_map(|(start, _)| {
        let rest = &prompt[start + 1..];
        let end = rest.find(['<', '>']).filter(|end| rest[*end..].starts_with('>'))?;
        let word = rest[..end].trim();
        if word.len() == end {
            return None; // a token, or refused as none
        }
        if !word.contains(char::is_alphabetic) {
            return None; // "3 < 4 > 2"
        }
        let token = ModifierToken::try_from(format!("<{}>", word.to_lowercase())).ok()?;
        Some((&prompt[start..start + end + 2], token))
    })
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::domain::concept::Handle;
    use crate::domain::concept::tests::words;
    use crate::domain::id::DeltaId;
    use crate::domain::record::Record;

    fn concept(handle: &str, token: Option<&str>, noun: &str) -> Concept {
        Concept {
            concept_id: ConceptId::generate(),
            handle: Handle::try_from(handle.to_owned()).unwrap(),
            words: words(token, noun),
            current_delta: Some(DeltaId::generate()),
            created_at: Utc::now(),
            record: Record::new(Utc::now(), Default::default()),
        }
    }

    #[test]
    fn names_are_words_and_runs_of_words_without_tokens() {
        let names = names_in("A <rex> Dog, my-cat's teddy bear");

        for name in ["dog", "my-cat", "teddy bear", "teddy-bear", "my-cat teddy bear"] {
            assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
        }
        for name in ["rex", "dog my-cat", "a dog"] {
            assert!(!names.iter().any(|known| known == name), "{name} in {names:?}");
        }
        assert!(names_in(&"word ".repeat(5000)).len() < 12);
    }

    #[test]
    fn a_concept_by_its_handle_or_noun_is_pointed_out_with_its_token() {
        let (rex, gate) = (concept("rex", Some("<v1>"), "dog"), concept("moon", None, "gate"));
        let others = [rex, gate];

        let warned = |prompt: &str| of_others(&others, &names_in(prompt), "/prompt", &[]);

        let handle = &warned("rex on the beach")[0];
        assert_eq!((handle.code, handle.pointer.as_str()), (Code::ConceptNotApplied, "/prompt"));
        assert!(handle.detail.contains("`<v1> dog`"), "{}", handle.detail);
        let token = &warned("v1 on the beach")[0];
        assert!(token.detail.starts_with("`v1`"), "{}", token.detail);
    }

    #[test]
    fn a_noun_of_a_participant_is_that_ones() {
        let (rex, max) = (words(Some("<rex>"), "dog"), concept("max", Some("<max>"), "dog"));
        let (names, participants) =
            (names_in("a <rex> dog on the beach"), [(ConceptId::generate(), &rex)]);

        assert_eq!(of_others(std::slice::from_ref(&max), &names, "/prompt", &participants), []);
        let alone = of_others(&[max], &names, "/prompt", &[]);
        assert!(alone[0].detail.starts_with("`dog`"), "{alone:?}");
    }

    #[test]
    fn the_notation_of_other_programs_is_pointed_out() {
        let found = |prompt: &str| {
            not_read(prompt, "/prompt").iter().map(|warning| warning.code).collect::<Vec<_>>()
        };

        for prompt in ["a (dog:1.2)", "a ((dog))", "a [dog]", "a (very (nice:0.8) dog)"] {
            assert_eq!(found(prompt), [Code::WeightsIgnored], "{prompt}");
        }
        for prompt in ["a < rex > dog", "a <rex > dog", "a < Rex> dog"] {
            assert_eq!(found(prompt), [Code::UnknownToken], "{prompt}");
        }
        for prompt in ["a dog (my own)", "at 10:30 (a clock)", "3 < 4 > 2, i <3 you", "a <rex> dog"]
        {
            assert_eq!(found(prompt), [], "{prompt}");
        }
    }
}
