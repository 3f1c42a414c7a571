//! Everything in words: defaults, bounds, fields that say nothing of their own.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::schema::{reachable, target};
use super::{operations, operations_mut};

/// What fields of these names mean wherever they stand.
const COMMON_FIELDS: &[(&str, &str)] = &[
    ("id", "Its id."),
    ("created_at", "When it was made."),
    ("updated_at", "When it last changed."),
    ("started_at", "When it was started. Null until then."),
    ("ended_at", "When it ended."),
    ("finished_at", "When it ended, in whatever way. Null until then."),
    ("url", "Path of the file."),
    ("prompt", "What the image should show."),
    ("negative_prompt", "What the image should not show."),
    ("n", "The number of images."),
    ("first_index", "The index of the first image."),
    ("seed", "Random seed."),
    ("num_inference_steps", "The number of denoising steps."),
    ("guidance_scale", "Weight of the prompt against the negative prompt."),
    (
        "guidance_interval",
        "The part of the denoising in which guidance is applied, from 0 (noise) to 1 (image).",
    ),
    ("unconditional_strength", "How much of the concepts the negative prompt sees, from 0 to 1."),
    ("eta", "The share of fresh noise in each DDIM step, from 0 to 1."),
    ("strength", "How much of a delta is applied: 0 is the base model, 1 the concept as trained."),
    ("noise_strength", "How much noise is added to the start image, above 0 and up to 1."),
    ("preview_every", "The number of steps between two previews."),
];

pub(super) fn complete(document: &mut Value) {
    let schemas = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
    let requests: BTreeSet<String> = operations(document)
        .flat_map(|(_, _, operation)| reachable(&operation["requestBody"], &schemas))
        .collect();
    if let Some(components) = document["components"]["schemas"].as_object_mut() {
        for (name, schema) in components {
            describe_fields(schema, &schemas, requests.contains(name));
        }
    }
    for (_, operation) in operations_mut(document) {
        for parameter in
            operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten()
        {
            describe_parameter(parameter, &schemas);
        }
    }
    unwrap_lines(document);
}

/// Describes the fields of an object and of the objects in it.
///
/// - `in_request`: whether a client sends it, so that defaults mean something
fn describe_fields(schema: &mut Value, schemas: &Map<String, Value>, in_request: bool) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, field) in properties.iter_mut() {
            describe(name, field, schemas, in_request);
        }
    }
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(|field| describe_fields(field, schemas, in_request));
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|item| describe_fields(item, schemas, in_request));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn describe_parameter(parameter: &mut Value, schemas: &Map<String, Value>) {
    let mut field = parameter["schema"].take();
    if let Some(Value::Array(types)) = field.get_mut("type") {
        // A parameter is there or not; it is never null.
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            field["type"] = only.clone();
        }
    }
    if let Some(Value::Array(alternatives)) = field.get_mut("oneOf") {
        alternatives.retain(|one| one["type"] != "null");
        if let [only] = alternatives.as_slice() {
            field = only.clone();
        }
    }
    if let Some(description) = parameter.get("description") {
        field["description"] = description.clone();
    }
    let name = parameter["name"].as_str().unwrap_or_default().to_owned();
    describe(&name, &mut field, schemas, true);
    if let Some(description) = field.as_object_mut().and_then(|field| field.remove("description")) {
        parameter["description"] = description;
    }
    parameter["schema"] = field;
}

/// Completes the description of one field: its default leaves the schema, where generated clients would send it unasked.
fn describe(name: &str, field: &mut Value, schemas: &Map<String, Value>, in_request: bool) {
    let Value::Object(field) = field else { return };
    let own = field.get("description").and_then(Value::as_str).map(str::to_owned);
    let common = COMMON_FIELDS.iter().find(|(common, _)| *common == name);
    let mut text = own
        .or_else(|| common.map(|(_, text)| (*text).to_owned()))
        .or_else(|| meaning_of(field, schemas))
        .unwrap_or_default();
    for bound in bounds(field) {
        if !text.is_empty() && !says(&text, &bound.number) {
            text = sentence(&text) + &bound.words;
        }
    }
    if let Some(default) = field.remove("default")
        && in_request
        && !default.is_null()
        && !text.contains("efault")
        && !text.is_empty()
    {
        text = format!("{}Defaults to {}.", sentence(&text), in_words(&default));
    }
    if !text.is_empty() {
        field.insert("description".to_owned(), text.into());
    }
}

/// What the type of a field means.
fn meaning_of(field: &Map<String, Value>, schemas: &Map<String, Value>) -> Option<String> {
    let field = Value::Object(field.clone());
    let alternatives = field["oneOf"].as_array().into_iter().flatten();
    let name = target(&field).or_else(|| alternatives.filter_map(target).next())?;
    let text = schemas.get(name)?["description"].as_str()?;
    let first = text.split("\n\n").next()?;
    Some(first.to_owned())
}

/// A bound that a description should mention.
struct Bound {
    number: String,
    words: String,
}

/// How a bound is said.
type Phrase = fn(&str) -> String;

fn bounds(field: &Map<String, Value>) -> Vec<Bound> {
    let phrases: [(&str, Phrase); 8] = [
        ("minimum", |n| format!("At least {n}.")),
        ("exclusiveMinimum", |n| format!("Above {n}.")),
        ("maximum", |n| format!("At most {n}.")),
        ("exclusiveMaximum", |n| format!("Below {n}.")),
        ("minLength", |n| format!("At least {n} characters.")),
        ("maxLength", |n| format!("At most {n} characters.")),
        ("minItems", |n| format!("At least {n} {}.", if n == "1" { "item" } else { "items" })),
        ("maxItems", |n| format!("At most {n} {}.", if n == "1" { "item" } else { "items" })),
    ];
    let bounds = phrases.iter().filter_map(|(key, words)| {
        let number = field.get(*key)?.to_string();
        let number = number.strip_suffix(".0").unwrap_or(&number).to_owned();
        // That a count is not negative goes without saying.
        (number != "0").then(|| Bound { words: words(&number), number })
    });
    bounds.collect()
}

/// Whether a text has this number, with or without spaces between thousands.
fn says(text: &str, number: &str) -> bool {
    let spelled = match number {
        "9007199254740991" => "2⁵³",
        number => number,
    };
    let digits: String =
        text.chars().filter(|c| !matches!(c, ' ' | '_' | ',' | '\u{a0}')).collect();
    digits.contains(spelled)
        || (number == "1" && text.contains(" one "))
        || (number == "2" && text.contains(" two "))
}

/// The text, ready for another sentence.
fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', ':', '?', '!']) { format!("{text} ") } else { format!("{text}. ") }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::Array(items) if items.is_empty() => "an empty list".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Number(number) => number.to_string().trim_end_matches(".0").to_owned(),
        other => format!("`{other}`"),
    }
}

/// Joins the lines of paragraphs, which the sources break where a line is full.
fn unwrap_lines(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if name == "description" || name == "summary" => {
                        *text = unwrapped(text);
                    }
                    field => unwrap_lines(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(unwrap_lines),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn unwrapped(text: &str) -> String {
    let mut whole = String::new();
    let mut in_code = false;
    for line in text.trim_end().lines() {
        let fence = line.starts_with("```");
        let stands_alone =
            in_code || fence || line.is_empty() || line.starts_with(['-', '|', '*', '#', ' ']);
        if fence {
            in_code = !in_code;
        }
        if !whole.is_empty() {
            let joins = !stands_alone && !whole.ends_with(['\n']) && !whole.ends_with("```");
            whole.push(if joins { ' ' } else { '\n' });
        }
        whole.push_str(line);
    }
    whole
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_says_its_bounds_and_its_default_and_no_client_sends_it() {
        let mut field = json!({
            "type": "integer", "minimum": 1, "maximum": 16, "default": 4,
            "description": "The number of images",
        });

        describe("n", &mut field, &Map::new(), true);

        let text = "The number of images. At least 1. At most 16. Defaults to 4.";
        // 16 contains the digit of the lower bound, so the order matters: the lower bound comes first.
        assert_eq!(field["description"], text);
        assert!(field.get("default").is_none());
    }

    #[test]
    fn what_is_said_is_not_said_again() {
        let mut field = json!({
            "type": "integer", "maximum": 31_536_000, "default": 1,
            "description": "Up to 31 536 000 seconds. The default is one.",
        });

        describe("n", &mut field, &Map::new(), true);

        assert_eq!(field["description"], "Up to 31 536 000 seconds. The default is one.");
    }

    #[test]
    fn lines_are_joined_but_lists_and_code_are_not() {
        let text = "One\ntwo.\n\nThree:\n- a\n- b\n\n```\nx\ny\n```\nfour\nfive";

        assert_eq!(unwrapped(text), "One two.\n\nThree:\n- a\n- b\n\n```\nx\ny\n```\nfour five");
    }
}
