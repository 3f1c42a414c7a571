//! Schemas that generators of clients understand: plain objects, files as files, no component that nothing uses.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

const SCHEMAS: &str = "#/components/schemas/";

/// Replaces what Rust puts together by what it amounts to.
pub(super) fn make_plain(document: &mut Value) {
    let schemas = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
    plain(document, &schemas);
    media_types(&mut document["paths"]);
    forms(document);
}

fn plain(value: &mut Value, schemas: &Map<String, Value>) {
    if let Some(whole) = value.get("allOf").and_then(|_| object_of(value, schemas)) {
        *value = Value::Object(whole);
    }
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|field| plain(field, schemas)),
        Value::Array(items) => items.iter_mut().for_each(|item| plain(item, schemas)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    if let Value::Object(fields) = value {
        hoist_description(fields);
        hoist_examples(fields);
        name_constant(fields);
    }
}

/// The one object that a schema describes, if it is one: parts are joined, and alternatives become optional fields.
fn object_of(schema: &Value, schemas: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut object = if let Some(name) = target(schema) {
        object_of(schemas.get(name)?, schemas)?
    } else if let Some(parts) = schema["allOf"].as_array() {
        let mut whole = Map::new();
        for part in parts {
            join(&mut whole, object_of(part, schemas)?);
        }
        whole
    } else if let Some(alternatives) = schema["oneOf"].as_array() {
        let alternatives: Option<Vec<_>> =
            alternatives.iter().map(|one| object_of(one, schemas)).collect();
        any_of(alternatives?)
    } else if schema["type"] == "object" {
        schema.as_object()?.clone()
    } else {
        return None;
    };
    if let Some(description) = schema.get("description") {
        object.insert("description".to_owned(), description.clone());
    }
    Some(object)
}

/// Adds the fields of another object.
fn join(whole: &mut Map<String, Value>, part: Map<String, Value>) {
    for (key, value) in part {
        match (whole.get_mut(&key), value) {
            (Some(Value::Object(fields)), Value::Object(further)) => fields.extend(further),
            (Some(Value::Array(items)), Value::Array(further)) => items.extend(further),
            (_, value) => drop(whole.insert(key, value)),
        }
    }
}

/// An object that has the fields of any of these. Required is what all of them require.
fn any_of(alternatives: Vec<Map<String, Value>>) -> Map<String, Value> {
    let required: BTreeSet<String> = alternatives
        .iter()
        .map(required_fields)
        .reduce(|one, other| one.intersection(&other).cloned().collect())
        .unwrap_or_default();
    let mut properties: Map<String, Value> = Map::new();
    for mut alternative in alternatives {
        let description = alternative.remove("description");
        let Some(Value::Object(fields)) = alternative.remove("properties") else { continue };
        for (name, mut field) in fields {
            describe_tag(&mut field, description.as_ref());
            match properties.get_mut(&name) {
                Some(known) if known["enum"].is_array() => extend_tag(known, &field),
                Some(_) | None => drop(properties.insert(name, field)),
            }
        }
    }
    let mut object = Map::new();
    object.insert("type".to_owned(), json!("object"));
    object.insert("properties".to_owned(), Value::Object(properties));
    object.insert("required".to_owned(), json!(required));
    object
}

/// The field whose only value says which of the alternatives it is has the description of that alternative.
fn describe_tag(field: &mut Value, alternative: Option<&Value>) {
    if let Some([only]) = field["enum"].as_array().map(Vec::as_slice)
        && let (Some(value), Some(text)) = (only.as_str(), alternative.and_then(Value::as_str))
        && field.get("description").is_none()
    {
        field["description"] = format!("- `{value}`: {text}").into();
    }
}

/// Adds the values of the same field in another alternative.
fn extend_tag(known: &mut Value, field: &Value) {
    let further = field["enum"].as_array().cloned().unwrap_or_default();
    if let Some(values) = known["enum"].as_array_mut() {
        for value in further {
            if !values.contains(&value) {
                values.push(value);
            }
        }
    }
    if let (Some(text), Some(more)) = (known["description"].as_str(), field["description"].as_str())
    {
        known["description"] = format!("{text}\n{more}").into();
    }
}

fn required_fields(object: &Map<String, Value>) -> BTreeSet<String> {
    let fields = object.get("required").and_then(Value::as_array).into_iter().flatten();
    fields.filter_map(|field| field.as_str().map(str::to_owned)).collect()
}

/// A field that may be null is described once, outside of its alternatives.
fn hoist_description(fields: &mut Map<String, Value>) {
    if fields.contains_key("description") {
        return;
    }
    let Some(Value::Array(alternatives)) = fields.get_mut("oneOf") else { return };
    let may_be_null = alternatives.iter().any(|one| one["type"] == "null");
    if may_be_null && alternatives.len() == 2 {
        let described = alternatives.iter_mut().filter(|one| one.get("$ref").is_some());
        let description =
            described.filter_map(|one| one.as_object_mut()?.remove("description")).next();
        if let Some(description) = description {
            fields.insert("description".to_owned(), description);
        }
    }
}

/// Examples of a list or a map stand at the list or map, not at what is in it.
fn hoist_examples(fields: &mut Map<String, Value>) {
    let is_of_whole = |part: &str, example: &Value| match part {
        "items" => example.is_array(),
        _ => example.is_object(),
    };
    for part in ["items", "additionalProperties", "propertyNames"] {
        let Some(Value::Object(below)) = fields.get_mut(part) else { continue };
        let examples = below.get("examples").and_then(Value::as_array);
        if examples.is_some_and(|all| all.iter().all(|example| is_of_whole(part, example)))
            && let Some(examples) = below.remove("examples")
        {
            fields.insert("examples".to_owned(), examples);
        }
    }
}

/// Fields with one value: `object`, and the field that says which of several objects this is.
fn name_constant(fields: &mut Map<String, Value>) {
    let Some(Value::Object(properties)) = fields.get_mut("properties") else { return };
    for field in properties.values_mut().filter(|field| field.get("description").is_none()) {
        if let Some([Value::String(only)]) = field["enum"].as_array().map(Vec::as_slice) {
            field["description"] = format!("Always `{only}`.").into();
        }
    }
    if let Some(object) = properties.get_mut("object")
        && let Some(name) = object["examples"][0].as_str().map(str::to_owned)
    {
        *object = json!({
            "type": "string",
            "const": name,
            "description": format!("The kind of object, always `{name}`."),
        });
    }
}

/// A body that is not JSON is a file or a stream, not a list of numbers or one object.
fn media_types(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (kind, media) in
                fields.get_mut("content").and_then(Value::as_object_mut).into_iter().flatten()
            {
                let schema = &mut media["schema"];
                if schema["type"] == "array" && schema["items"]["format"] == "int32" {
                    *schema = json!({ "type": "string", "format": "binary" });
                } else if kind == "text/event-stream" {
                    *schema = event(schema.take());
                }
            }
            fields.values_mut().for_each(media_types);
        }
        Value::Array(items) => items.iter_mut().for_each(media_types),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A server-sent event with this data.
fn event(data: Value) -> Value {
    json!({
        "type": "object",
        "description": "One event of the stream.",
        "required": ["id", "event", "data"],
        "properties": {
            "id": { "type": "string", "description": "Send it as `Last-Event-ID` to go on after this event." },
            "event": { "type": "string", "description": "The name of the event." },
            "retry": { "type": "integer", "description": "After how many milliseconds to connect again." },
            "data": {
                "type": "string",
                "description": "The event as JSON.",
                "contentMediaType": "application/json",
                "contentSchema": data,
            },
        },
    })
}

/// A part that a form does not have is refused, as an unknown field of JSON is.
fn forms(document: &mut Value) {
    let mut names = BTreeSet::new();
    let paths = document["paths"].as_object().into_iter().flatten();
    for operation in paths.flat_map(|(_, methods)| methods.as_object().into_iter().flatten()) {
        let schema = &operation.1["requestBody"]["content"]["multipart/form-data"]["schema"];
        names.extend(target(schema).map(str::to_owned));
    }
    for name in names {
        document["components"]["schemas"][name]["additionalProperties"] = json!(false);
    }
}

/// The component that a reference names.
pub(super) fn target(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix(SCHEMAS)
}

/// The components that something refers to, directly or through others.
pub(super) fn reachable(from: &Value, schemas: &Map<String, Value>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut ahead = Vec::new();
    references(from, &mut ahead);
    while let Some(name) = ahead.pop() {
        if let Some(schema) = schemas.get(&name)
            && found.insert(name)
        {
            references(schema, &mut ahead);
        }
    }
    found
}

fn references(value: &Value, names: &mut Vec<String>) {
    names.extend(target(value).map(str::to_owned));
    match value {
        Value::Object(fields) => fields.values().for_each(|field| references(field, names)),
        Value::Array(items) => items.iter().for_each(|item| references(item, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Removes the components that nothing refers to: what only Rust needs, and answers that every operation has in its own way.
pub(super) fn drop_unused(document: &mut Value) {
    let paths = document["paths"].to_string();
    if let Some(responses) = document["components"]["responses"].as_object_mut() {
        responses.retain(|name, _| paths.contains(&format!("\"#/components/responses/{name}\"")));
    }
    let Some(Value::Object(schemas)) = document["components"].get("schemas").cloned() else {
        return;
    };
    let mut used = reachable(&document["paths"], &schemas);
    used.extend(reachable(&document["components"]["responses"], &schemas));
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.retain(|name, _| used.contains(name));
    }
}
