//! What requests are accepted with although their results may suffer from it: mistakes made visible before they cost anything.
//!
//! A warning never changes what is done. What is certainly wrong is refused instead.

mod prompt;
mod sampling;
mod training;

pub(super) use self::prompt::{not_applied, not_read};
pub(super) use self::sampling::{is_usual_size, of_settings, of_uses};
pub(super) use self::training::of_training;

use crate::domain::code::Code;
use crate::domain::warning::Warning;

/// How many times its usual value a number may be before it is unusual.
const FAR: f64 = 10.0;

/// Warns of a number that is far from the usual one.
///
/// - `times`: how many times more or less than usual is far
fn far_from_usual(value: f64, usual: f64, times: f64, pointer: &str, why: &str) -> Option<Warning> {
    if usual <= 0.0 || (usual / times..=usual * times).contains(&value) {
        return None;
    }
    let detail = format!("{value} is far from the usual {usual}: {why}");
    Some(Warning::new(Code::ValueUnusual, pointer, detail))
}

/// Warns of texts that are given twice: of the first such, by its place in the list.
pub(super) fn of_repeated(texts: &[impl AsRef<str>], pointer: &str) -> Option<Warning> {
    let normal = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    texts.iter().enumerate().find_map(|(index, text)| {
        let first = *seen.entry(normal(text.as_ref())).or_insert(index);
        (first < index).then(|| {
            let detail =
                format!("it is the same text as {pointer}/{first} and adds nothing: leave it out");
            Warning::new(Code::IdenticalTexts, format!("{pointer}/{index}"), detail)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_given_twice_is_pointed_at() {
        let warning = of_repeated(&["a dog", "a cat", "A  dog", "a cat"], "/captions").unwrap();

        assert_eq!((warning.code, warning.pointer.as_str()), (Code::IdenticalTexts, "/captions/2"));
        assert!(warning.detail.contains("/captions/0"), "{}", warning.detail);
        assert_eq!(of_repeated(&["a dog", "a cat"], "/captions"), None);
    }

    #[test]
    fn a_number_is_far_from_the_usual_one_on_both_sides() {
        let far = |value| far_from_usual(value, 8e-5, FAR, "/x", "why").is_some();

        assert_eq!([1.0, 9e-6, 8e-5, 7e-4, 7e-6].map(far), [true, false, false, false, true]);
    }
}
