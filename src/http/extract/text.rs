//! The text of a JSON body as a value, with the errors that a value does not show.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::pointer::Pointer;
use crate::domain::code::Code;
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::http::error::ApiError;

/// Reads a body.
///
/// # Errors
/// What is not JSON, names that are given twice, and texts with U+0000, which nothing can keep.
pub(super) fn read_json(bytes: &[u8]) -> Result<Value, ApiError> {
    let mut found = Found::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Reader(&mut found).deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    let value = value.map_err(|error| {
        let error = error.to_string();
        let detail = match error.strip_prefix("recursion limit exceeded") {
            Some(place) => {
                format!("its lists and objects are too deep in each other, send it flat:{place}")
            }
            None => error,
        };
        ApiError::Malformed(format!("the body is not JSON that can be read: {detail}"))
    })?;
    found.checks.finish().map_err(|error: Invalid| ApiError::from(error))?;
    Ok(value)
}

#[derive(Default)]
struct Found {
    pointer: Pointer,
    checks: Checks,
}

impl Found {
    fn check_text(&mut self, text: &str) {
        if text.contains('\0') {
            let detail = "a text cannot contain the character U+0000: leave it out";
            self.checks.push(FieldError::new(self.pointer.as_str(), Code::InvalidValue, detail));
        }
    }
}

struct Reader<'a>(&'a mut Found);

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        self.0.check_text(text);
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        self.0.check_text(&text);
        Ok(Value::String(text))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let mark = self.0.pointer.push_index(list.len());
            let item = items.next_element_seed(Reader(&mut *self.0))?;
            self.0.pointer.truncate(mark);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let mark = self.0.pointer.push(&name.replace('\0', ""));
            self.0.check_text(&name);
            let value = fields.next_value_seed(Reader(&mut *self.0))?;
            if object.insert(name, value).is_some() {
                let detail = "this name is given twice: leave one of them out";
                let error = FieldError::new(self.0.pointer.as_str(), Code::InvalidValue, detail);
                self.0.checks.push(error);
            }
            self.0.pointer.truncate(mark);
        }
        Ok(Value::Object(object))
    }
}
