//! Compares a value with its shape, and finds everything that is wrong with it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::pointer::Pointer;
use crate::domain::code::Code;
use crate::domain::invalid::{Checks, FieldError, MAX_QUOTED_CHARS as MAX_QUOTED, shortened};

/// The most names that a message lists.
const MAX_NAMES: usize = 40;

/// What a value may look like.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Any,
    Null,
    Boolean,
    Number,
    Integer {
        is_signed: bool,
    },
    /// One of the options, or any text if there are none.
    Text {
        options: Vec<String>,
    },
    List {
        items: Box<Shape>,
        length: Option<u64>,
    },
    Object {
        /// The shape of each field, and whether it is required.
        fields: BTreeMap<String, (Shape, bool)>,
        /// The shape of all other fields; `None` if there can be none.
        others: Option<Box<Shape>>,
    },
    OneOf(Vec<Shape>),
}

impl Shape {
    /// A value of any of these shapes.
    pub(super) fn one_of(variants: impl Iterator<Item = Self>) -> Self {
        let mut all = Vec::new();
        for variant in variants {
            match variant {
                Self::OneOf(variants) => all.extend(variants),
                other => all.push(other),
            }
        }
        if all.len() == 1 { all.remove(0) } else { Self::OneOf(all) }
    }

    /// Finds what is wrong with a value. Nulls that mean the same as an absent field are removed, and whole numbers are written as such:
    /// `2.0` is 2.
    pub(super) fn check(&self, value: &mut Value, at: &mut Pointer, checks: &mut Checks) {
        match (self, &mut *value) {
            (Self::Any, _)
            | (Self::Null, Value::Null)
            | (Self::Boolean, Value::Bool(_))
            | (Self::Number, Value::Number(_)) => {}
            (Self::Integer { is_signed }, Value::Number(number)) => {
                if let Some(whole) = number.as_f64().and_then(whole) {
                    *number = whole.into();
                }
                let fits = number.is_u64() || number.is_i64() && *is_signed;
                if !fits {
                    self.refuse(value, at, checks);
                }
            }
            (Self::Text { options }, Value::String(text)) => {
                if text.contains('\0') {
                    let detail = "a text cannot contain the character U+0000: leave it out";
                    checks.push(FieldError::new(at.as_str(), Code::InvalidValue, detail));
                } else if !options.is_empty() && !options.contains(text) {
                    self.refuse(value, at, checks);
                }
            }
            (Self::List { items, length }, Value::Array(list)) => {
                if length.is_some_and(|length| length != list.len() as u64) {
                    self.refuse(value, at, checks);
                    return;
                }
                for (index, item) in list.iter_mut().enumerate() {
                    let mark = at.push_index(index);
                    items.check(item, at, checks);
                    at.truncate(mark);
                }
            }
            (Self::Object { fields, others }, Value::Object(object)) => {
                check_object(fields, others.as_deref(), object, at, checks);
            }
            (Self::OneOf(variants), _) => match chosen(variants, value) {
                Ok(variant) => variant.check(value, at, checks),
                Err(Unclear::Type) => self.refuse(value, at, checks),
                Err(Unclear::Tag(tag, shape)) => {
                    let fields = BTreeMap::from([(tag, (shape, true))]);
                    let others = Some(Self::Any);
                    if let Value::Object(object) = value {
                        check_object(&fields, others.as_ref(), object, at, checks);
                    }
                }
            },
            (
                Self::Null
                | Self::Boolean
                | Self::Number
                | Self::Integer { .. }
                | Self::Text { .. }
                | Self::List { .. }
                | Self::Object { .. },
                _,
            ) => self.refuse(value, at, checks),
        }
    }

    /// The parameters of a query as an object. A parameter is a text; where a number or a truth value is meant, it becomes one.
    ///
    /// Of a parameter that is given twice, the last one counts: whoever gives one twice is refused before.
    pub(super) fn of_parameters<'a>(
        &self,
        given: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>,
    ) -> Value {
        let Self::Object { fields, .. } = self else { return Value::Null };
        let mut object = Map::new();
        for (name, text) in given {
            let Some((shape, _)) = fields.get(name.as_ref()) else { continue };
            object.insert(name.into_owned(), shape.of_text(text.into_owned()));
        }
        Value::Object(object)
    }

    fn of_text(&self, text: String) -> Value {
        let meant = serde_json::from_str(&text).ok().filter(|value: &Value| {
            !value.is_null() && !value.is_string() && self.is_of_type(value)
        });
        match self {
            Self::Any => Value::String(text),
            _ => meant.unwrap_or(Value::String(text)),
        }
    }

    fn refuse(&self, value: &Value, at: &Pointer, checks: &mut Checks) {
        let detail = format!("{} is expected here, not {}", self.in_words(), described(value));
        checks.push(FieldError::new(at.as_str(), Code::InvalidValue, detail));
    }

    fn in_words(&self) -> String {
        match self {
            Self::Any => "a value".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::Integer { is_signed: true } => "a whole number".to_owned(),
            Self::Integer { is_signed: false } => "a whole number, not below 0,".to_owned(),
            Self::Text { options } if options.is_empty() => "a text".to_owned(),
            Self::Text { options } => match options.as_slice() {
                [only] => format!("the text `{only}`"),
                options => format!("one of the texts {}", listed(options.iter())),
            },
            Self::List { length: Some(length), .. } => format!("a list of {length} values"),
            Self::List { length: None, .. } => "a list".to_owned(),
            Self::Object { .. } => "an object".to_owned(),
            Self::OneOf(variants) => {
                let mut words: Vec<String> = Vec::new();
                for variant in variants.iter().filter(|variant| !matches!(variant, Self::Null)) {
                    let word = variant.in_words();
                    if !words.contains(&word) {
                        words.push(word);
                    }
                }
                words.join(" or ")
            }
        }
    }

    fn is_of_type(&self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Null => value.is_null(),
            Self::Boolean => value.is_boolean(),
            Self::Number | Self::Integer { .. } => value.is_number(),
            Self::Text { .. } => value.is_string(),
            Self::List { .. } => value.is_array(),
            Self::Object { .. } => value.is_object(),
            Self::OneOf(variants) => variants.iter().any(|variant| variant.is_of_type(value)),
        }
    }

    fn takes_null(&self) -> bool {
        self.is_of_type(&Value::Null)
    }
}

fn check_object(
    fields: &BTreeMap<String, (Shape, bool)>,
    others: Option<&Shape>,
    object: &mut Map<String, Value>,
    at: &mut Pointer,
    checks: &mut Checks,
) {
    object.retain(|name, value| {
        let takes_null = fields.get(name).is_none_or(|(shape, _)| shape.takes_null());
        takes_null || !value.is_null()
    });
    let names: Vec<&String> = fields.keys().collect();
    let mut names_to_tell: &[&String] = if names.len() > MAX_NAMES { &[] } else { &names };
    for (name, value) in object.iter_mut() {
        let shape = fields.get(name).map(|(shape, _)| shape).or(others);
        let mark = at.push(name);
        match shape {
            Some(shape) => shape.check(value, at, checks),
            None => {
                let name = shortened(name.clone(), MAX_QUOTED);
                // Once is enough.
                let names = std::mem::take(&mut names_to_tell);
                let known = match names {
                    [_, ..] => format!("; the fields here are {}", listed(names.iter().copied())),
                    [] => String::new(),
                };
                let detail =
                    format!("unknown field `{name}`: leave it out, or correct its name{known}");
                checks.push(FieldError::new(at.as_str(), Code::UnknownField, detail));
            }
        }
        at.truncate(mark);
    }
    for (name, (shape, is_required)) in fields {
        if *is_required && !object.contains_key(name) {
            let detail = format!("missing field `{name}`: {} is expected", shape.in_words());
            checks.push(FieldError::new(at.to(name), Code::MissingField, detail));
        }
    }
}

/// Why none of several shapes is the one that a value is meant to have.
enum Unclear {
    Type,
    /// The field that says which one it is, and what it can be.
    Tag(String, Shape),
}

/// The shape that a value is meant to have: the one of its type, and of objects the one whose tag it has.
fn chosen<'a>(variants: &'a [Shape], value: &Value) -> Result<&'a Shape, Unclear> {
    let of_type: Vec<&Shape> =
        variants.iter().filter(|variant| variant.is_of_type(value)).collect();
    match of_type.as_slice() {
        [] => return Err(Unclear::Type),
        [only] => return Ok(only),
        [_, _, ..] => {}
    }
    if let Value::String(text) = value {
        let mut texts = of_type.iter();
        let takes = |shape: &&&Shape| matches!(shape, Shape::Text { options } if options.is_empty() || options.contains(text));
        return texts.find(takes).copied().ok_or(Unclear::Type);
    }
    // Of objects, the first field with one possible text is the tag.
    let tag = of_type.iter().find_map(|shape| tag_of(shape)).map(|(name, _)| name.to_owned());
    let Some(tag) = tag else { return Ok(fewest_errors(&of_type, value)) };
    let tagged: Vec<(&Shape, &str)> = of_type
        .iter()
        .filter_map(|shape| Some((*shape, tag_of(shape).filter(|(name, _)| *name == tag)?.1)))
        .collect();
    let given = value.get(&tag).and_then(Value::as_str);
    let of_tag: Vec<&Shape> =
        tagged.iter().filter(|(_, text)| Some(*text) == given).map(|(shape, _)| *shape).collect();
    if of_tag.is_empty() {
        let options = tagged.iter().map(|(_, text)| (*text).to_owned()).collect();
        return Err(Unclear::Tag(tag, Shape::Text { options }));
    }
    Ok(fewest_errors(&of_tag, value))
}

fn tag_of(shape: &Shape) -> Option<(&str, &str)> {
    let Shape::Object { fields, .. } = shape else { return None };
    fields.iter().find_map(|(name, (shape, is_required))| match shape {
        Shape::Text { options } if *is_required => match options.as_slice() {
            [only] => Some((name.as_str(), only.as_str())),
            [] | [_, _, ..] => None,
        },
        _ => None,
    })
}

fn fewest_errors<'a>(shapes: &[&'a Shape], value: &Value) -> &'a Shape {
    let errors = |shape: &&&Shape| {
        let mut checks = Checks::default();
        shape.check(&mut value.clone(), &mut Pointer::default(), &mut checks);
        checks.finish().map_or_else(|invalid| invalid.0.len(), |()| 0)
    };
    shapes.iter().min_by_key(errors).copied().unwrap_or(&Shape::Any)
}

/// The whole number that a number is, if `f64` can tell.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2⁵³
    (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64)
}

fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A value as a message repeats it.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => {
            format!("the number {}", shortened(number.to_string(), MAX_QUOTED))
        }
        Value::String(text) => format!("the text `{}`", shortened(text.clone(), MAX_QUOTED)),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}
