//! Bodies of requests: what is not given on the command line is left to the service.

use clap::ValueEnum;
use serde_json::{Map, Value, json};

/// Sets a field unless its value is null.
pub(super) fn set(body: &mut Map<String, Value>, field: &str, value: Value) {
    if !value.is_null() {
        body.insert(field.to_owned(), value);
    }
}

/// A choice as the service spells it; null for none.
pub(super) fn chosen<T: ValueEnum>(choice: Option<T>) -> Value {
    let value = choice.and_then(|choice| choice.to_possible_value());
    json!(value.map(|value| value.get_name().replace('-', "_")))
}

/// An array; null for an empty one.
pub(super) fn some<T: serde::Serialize>(values: &[T]) -> Value {
    if values.is_empty() { Value::Null } else { json!(values) }
}
