//! Errors of a request, field by field.

use super::code::Code;

/// The most errors of one request that are collected. Whoever has made more of them corrects these first.
pub const MAX_ERRORS: usize = 100;

/// The most characters of a pointer and of a detail: both can repeat what the request says.
const MAX_POINTER_CHARS: usize = 200;
pub const MAX_DETAIL_CHARS: usize = 1000;

/// The most characters of one thing in a detail that stands between backticks: it repeats what was sent.
pub const MAX_QUOTED_CHARS: usize = 100;

/// One rule that one field of a request breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// JSON pointer to the field, such as `/concepts/0`.
    pub pointer: String,
    pub code: Code,
    /// For people: what is wrong and what would be right.
    pub detail: String,
}

impl FieldError {
    pub fn new(pointer: impl Into<String>, code: Code, detail: impl Into<String>) -> Self {
        let pointer = shortened(pointer.into(), MAX_POINTER_CHARS);
        let detail = with_short_quotes(detail.into());
        Self { pointer, code, detail: shortened(detail, MAX_DETAIL_CHARS) }
    }
}

/// The text, with less of what it quotes at length.
fn with_short_quotes(text: String) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    let is_paired = parts.len() % 2 == 1;
    if text.len() <= MAX_QUOTED_CHARS || !is_paired {
        return text;
    }
    let shorter = parts.iter().enumerate().map(|(index, part)| match index % 2 {
        1 => shortened((*part).to_owned(), MAX_QUOTED_CHARS),
        _ => (*part).to_owned(),
    });
    shorter.collect::<Vec<_>>().join("`")
}

/// The text, without its middle if it has more characters than `most`. What was sent stands at the beginning of a detail, and
/// what to do at its end.
pub fn shortened(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let count = text.chars().count();
    if count <= most {
        return text;
    }
    let half = most / 2;
    let beginning = text.chars().take(most - half);
    let end = text.chars().skip(count - half);
    beginning.chain(std::iter::once('…')).chain(end).collect()
}

/// A request that breaks at least one rule; all of them are named at once.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.first().map_or("invalid request", |error| error.detail.as_str()))]
pub struct Invalid(pub Vec<FieldError>);

impl Invalid {
    /// The code of all errors, or [`Code::ValidationFailed`] if they differ.
    pub fn code(&self) -> Code {
        match self.0.as_slice() {
            [first, rest @ ..] if rest.iter().all(|error| error.code == first.code) => first.code,
            [] | [_, ..] => Code::ValidationFailed,
        }
    }
}

impl From<FieldError> for Invalid {
    fn from(error: FieldError) -> Self {
        Self(vec![error])
    }
}

/// Returns all values if there is no error, otherwise the errors, at most [`MAX_ERRORS`].
pub fn all_or_errors<T>(
    results: impl Iterator<Item = Result<T, FieldError>>,
) -> Result<Vec<T>, Invalid> {
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
        if errors.len() == MAX_ERRORS {
            break;
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(Invalid(errors)) }
}

/// A number as people write it: very large and very small ones with an exponent.
fn short(number: &impl std::fmt::Display) -> String {
    const DIGITS: usize = 17;
    let text = number.to_string();
    match text.parse::<f64>() {
        Ok(number) if text.len() > DIGITS + 3 => format!("{number:e}"),
        Ok(_) | Err(_) => text,
    }
}

/// Collects errors, so that a client gets all of them in one answer.
#[derive(Debug, Default)]
pub struct Checks(Vec<FieldError>);

impl Checks {
    /// Adds an error unless `holds`.
    pub fn require(
        &mut self,
        holds: bool,
        pointer: &str,
        code: Code,
        detail: impl FnOnce() -> String,
    ) {
        if !holds {
            self.push(FieldError::new(pointer, code, detail()));
        }
    }

    /// Adds an error unless `value` lies in `range`. A number that is not finite never does.
    pub fn in_range<T: PartialOrd + std::fmt::Display>(
        &mut self,
        value: T,
        range: std::ops::RangeInclusive<T>,
        pointer: &str,
    ) {
        self.require(range.contains(&value), pointer, Code::OutOfRange, || {
            let (value, least, most) = (short(&value), short(range.start()), short(range.end()));
            format!("{value} is outside {least} to {most}")
        });
    }

    /// Adds an error unless `value` is above 0 and at most `most`.
    pub fn positive(&mut self, value: f64, most: f64, pointer: &str) {
        self.require(value > 0.0 && value <= most, pointer, Code::OutOfRange, || {
            format!("{} is out of range: above 0, at most {}", short(&value), short(&most))
        });
    }

    pub fn push(&mut self, error: FieldError) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(error);
        }
    }

    pub fn finish(self) -> Result<(), Invalid> {
        if self.0.is_empty() { Ok(()) } else { Err(Invalid(self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_does_not_repeat_a_long_text_whole() {
        let detail = format!("`{}` is no name: choose a short one", "é".repeat(1_000_000));

        let error = FieldError::new("/a".repeat(1000), Code::InvalidValue, detail);

        assert!(error.detail.chars().count() <= 150 && error.pointer.len() <= 203, "{error:?}");
        let unpaired = format!("`{}` or {}", "`".repeat(2000), "x".repeat(2000));
        let error = FieldError::new("", Code::InvalidValue, unpaired);
        assert!(error.detail.chars().count() <= 1001, "{error:?}");
        let error = FieldError::new("", Code::InvalidValue, "é".repeat(1_000_000));
        assert!(error.detail.chars().count() <= 1001, "{error:?}");
        let detail = format!("`{}` is no name: choose a short one", "é".repeat(1_000_000));
        let error = FieldError::new("/a", Code::InvalidValue, detail);
        assert!(error.detail.starts_with("`éé") && error.detail.ends_with("choose a short one"));
        assert_eq!(shortened("é".repeat(10), 10), "é".repeat(10));
    }

    #[test]
    fn a_request_with_very_many_errors_is_told_some_of_them() {
        let error = |index| FieldError::new(format!("/{index}"), Code::InvalidValue, "no");
        let mut checks = Checks::default();
        (0..5000).for_each(|index| checks.push(error(index)));

        assert_eq!(checks.finish().unwrap_err().0.len(), MAX_ERRORS);
        let results = (0..5000).map(|index| Err::<(), _>(error(index)));
        assert_eq!(all_or_errors(results).unwrap_err().0.len(), MAX_ERRORS);
    }
}
