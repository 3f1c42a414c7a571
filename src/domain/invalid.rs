//! What a request got wrong, field by field.

use super::code::Code;
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
        Self { pointer: pointer.into(), code, detail: detail.into() }
    }
}

/// A request that breaks at least one rule; all of them are named at once.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.first().map_or("invalid request", |error| error.detail.as_str()))]
pub struct Invalid(pub Vec<FieldError>);

impl Invalid {
    /// The one code of all errors, so that a client which reads a single code gets the telling one;
    /// [`Code::ValidationFailed`] if they differ.
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

/// All values if there is no error, else all errors at once.
pub fn all_or_errors<T>(
    results: impl Iterator<Item = Result<T, FieldError>>,
) -> Result<Vec<T>, Invalid> {
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(Invalid(errors)) }
}

/// Collects what is wrong, so that a client hears everything in one answer.
#[derive(Debug, Default)]
pub struct Checks(Vec<FieldError>);

impl Checks {
    /// Notes an error unless `holds`.
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

    /// Notes an error unless `value` lies in `range`, which a number that is not finite never does.
    pub fn in_range<T: PartialOrd + std::fmt::Display>(
        &mut self,
        value: T,
        range: std::ops::RangeInclusive<T>,
        pointer: &str,
    ) {
        self.require(range.contains(&value), pointer, Code::OutOfRange, || {
            format!("{value} is outside {} to {}", range.start(), range.end())
        });
    }

    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    pub fn finish(self) -> Result<(), Invalid> {
        if self.0.is_empty() { Ok(()) } else { Err(Invalid(self.0)) }
    }
}
