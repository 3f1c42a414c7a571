//! What every operation can answer beside what its handler documents: broken requests, a busy service, a bug.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::codes::OF_OPERATIONS;
use super::common::{COMMON, Common, STRICT_HEADERS, has_parameter, is_download};
use super::schema::target;
use super::{Operation, operations_mut};
use crate::domain::code::Code;

/// Adds the answers and headers that follow from the kind of operation.
pub(super) fn complete(document: &mut Value) {
    let labelled = labelled(document);
    let mut shared = BTreeMap::new();
    for (method, operation) in operations_mut(document) {
        if method == "get" && has_entity_tag(operation) {
            describe_entity_tag(operation);
        }
        if is_download(operation) {
            describe_download(operation);
        }
        let mut common: BTreeMap<&str, Vec<&Common>> = BTreeMap::new();
        for one in COMMON.iter().filter(|one| (one.applies)(operation)) {
            common.entry(one.status).or_default().push(one);
        }
        let further = codes_of(operation, &labelled);
        for (status, _) in &further {
            common.entry(status).or_default();
        }
        add_patterns(operation);
        let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else {
            continue;
        };
        for (status, common) in common {
            let of_status = further.iter().filter(|(with, _)| *with == status);
            let further: Vec<Code> = of_status.flat_map(|(_, codes)| codes.clone()).collect();
            match (responses.get_mut(status), common.as_slice()) {
                (None, [only]) if further.is_empty() => {
                    let path = format!("#/components/responses/{}", only.name);
                    responses.insert(status.to_owned(), json!({ "$ref": path }));
                    shared.entry(only.name).or_insert_with(|| answer_with(status, &[only], &[]));
                }
                (None, common) => {
                    responses.insert(status.to_owned(), answer_with(status, common, &further));
                }
                (Some(own), common) if is_problem(own) => join(own, common, &further),
                (Some(_), _) => {}
            }
        }
        for (status, response) in responses {
            complete_response(status, response);
        }
    }
    document["components"]["responses"] = json!(shared);
    document["components"]["headers"] = json!({
        "RequestId": {
            "description": "The id of the request in the server's log. That of the request, if it has one.",
            "schema": { "type": "string" },
        },
        "RetryAfter": {
            "description": "After how many seconds the same request may succeed.",
            "schema": { "type": "integer", "minimum": 0 },
        },
        "Location": {
            "description": "Path of what was made.",
            "schema": { "type": "string" },
        },
        "ETag": {
            "description": "The entity tag, for `If-None-Match`.",
            "schema": { "type": "string" },
        },
        "ContentRange": {
            "description": "Which bytes of how many, or only how many if the range lies outside of them.",
            "schema": { "type": "string" },
        },
    });
}

/// An answer that no handler describes.
fn answer_with(status: &str, common: &[&Common], further: &[Code]) -> Value {
    let schema = json!({ "$ref": "#/components/schemas/Problem" });
    let mut response = json!({ "content": { "application/problem+json": { "schema": schema } } });
    let text = if common.is_empty() { what_it_says(status).to_owned() } else { text_of(common) };
    list_codes(&mut response, &text, [&codes_in_common(common), further].concat());
    complete_response(status, &mut response);
    response
}

/// The schemas of bodies that give things an id of the client's choice.
fn labelled(document: &Value) -> BTreeSet<String> {
    let schemas = document["components"]["schemas"].as_object().into_iter().flatten();
    let labelled = schemas.filter(|(_, schema)| schema["properties"].get("external_id").is_some());
    labelled.map(|(name, _)| name.clone()).collect()
}

/// The form of headers that is insisted on.
fn add_patterns(operation: &mut Operation) {
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten().filter(|one| one["in"] == "header") {
        let name = parameter["name"].as_str().unwrap_or_default().to_lowercase();
        if let Some((_, pattern)) = STRICT_HEADERS.iter().find(|(strict, _)| *strict == name) {
            parameter["schema"] = json!({ "type": "string", "pattern": pattern });
        }
    }
}

fn is_problem(response: &Value) -> bool {
    response["content"].get("application/problem+json").is_some()
}

/// Adds to an answer that a handler describes what all operations of its kind can answer with that status.
fn join(own: &mut Value, common: &[&Common], further: &[Code]) {
    let text = own["description"].as_str().unwrap_or_default().to_owned();
    let codes = [codes_in(&text).as_slice(), &codes_in_common(common), further].concat();
    let text = if is_only_codes(&text) { text_of(common) } else { text };
    list_codes(own, &text, codes);
}

fn text_of(common: &[&Common]) -> String {
    common.iter().map(|one| one.description).collect::<Vec<_>>().join(" ")
}

fn codes_in_common(common: &[&Common]) -> Vec<Code> {
    common.iter().flat_map(|one| one.codes).copied().collect()
}

/// The codes of its own that an operation answers, by status.
fn codes_of(operation: &Operation, labelled: &BTreeSet<String>) -> Vec<(&'static str, Vec<Code>)> {
    let id = operation["operationId"].as_str().unwrap_or_default();
    let own = OF_OPERATIONS.iter().filter(|(of, ..)| *of == id);
    let mut codes: Vec<_> = own.map(|(_, status, codes)| (*status, codes.concat())).collect();
    let content = operation.get("requestBody").and_then(|body| body["content"].as_object());
    let body = content.into_iter().flatten().find_map(|(_, media)| target(&media["schema"]));
    let is_check = id.starts_with("check_");
    if !is_check && body.is_some_and(|name| labelled.contains(name)) {
        codes.push(("409", vec![Code::ExternalIdTaken]));
    }
    codes
}

fn list_codes(response: &mut Value, text: &str, mut codes: Vec<Code>) {
    codes.sort_by_key(|code| Code::ALL.iter().position(|other| other == code));
    codes.dedup();
    let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let missing: Vec<&str> =
        names.iter().filter(|name| !text.contains(&format!("`{name}`"))).copied().collect();
    response["description"] = if missing.is_empty() {
        text.into()
    } else {
        let text = text.trim_end_matches(['.', ' ', ',', '…']);
        format!("{text}. Codes: `{}`.", missing.join("`, `")).into()
    };
    response["x-codes"] = json!(names);
}

/// The codes that a description names.
fn codes_in(text: &str) -> Vec<Code> {
    let quoted: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    Code::ALL.iter().copied().filter(|code| quoted.contains(&code.as_str())).collect()
}

fn is_only_codes(text: &str) -> bool {
    let around: String = text.split('`').step_by(2).collect();
    around.chars().all(|c| matches!(c, ',' | ' ' | '…' | '.'))
}

/// Headers, and the list of codes where only the handler documents the status.
fn complete_response(status: &str, response: &mut Value) {
    if response.get("$ref").is_some() {
        return;
    }
    if status >= "400" && response.get("x-codes").is_none() {
        let text = response["description"].as_str().unwrap_or_default().to_owned();
        let codes = codes_in(&text);
        let text = if is_only_codes(&text) { what_it_says(status).to_owned() } else { text };
        list_codes(response, &text, codes);
    }
    let mut headers = response["headers"].as_object().cloned().unwrap_or_default();
    headers.retain(|name, _| !matches!(name.as_str(), "location" | "retry-after"));
    let own = |name: &str| response["headers"].get(name).is_some();
    let mut add = |name: &str, component: &str| {
        headers.insert(name.to_owned(), shared_header(component));
    };
    add("x-request-id", "RequestId");
    if own("location") {
        add("location", "Location");
    }
    if own("retry-after") || matches!(status, "429" | "503") {
        add("retry-after", "RetryAfter");
    }
    if matches!(status, "206" | "416") {
        add("content-range", "ContentRange");
    }
    if status == "304" {
        add("etag", "ETag");
    }
    response["headers"] = Value::Object(headers);
}

fn what_it_says(status: &str) -> &'static str {
    match status {
        "403" => "The key does not allow it.",
        "404" => "There is no such thing.",
        "409" => "The request contradicts what exists.",
        "410" => "It existed and is gone.",
        "412" => "What the request wants to change has changed since.",
        _ => "The request is refused.",
    }
}

/// Whoever has the answer already is told so.
fn describe_entity_tag(operation: &mut Operation) {
    let text = "The entity tag of the answer that the client has, or several. If one is current, the answer is 304.";
    add_header(operation, "If-None-Match", text);
    let responses = &mut operation["responses"];
    responses["304"] = json!({ "description": "The client has the current answer" });
    responses["200"]["headers"]["etag"] = shared_header("ETag");
}

/// A part of a file that never changes.
fn describe_download(operation: &mut Operation) {
    let text =
        "A single range of bytes, such as `bytes=0-1023`. Anything else means the whole file.";
    add_header(operation, "Range", text);
    let responses = &mut operation["responses"];
    let content = responses["200"]["content"].clone();
    let headers = json!({ "etag": shared_header("ETag") });
    responses["206"] = json!({ "description": "The range that was asked for", "content": content, "headers": headers });
}

fn add_header(operation: &mut Operation, name: &str, description: &str) {
    if has_parameter(operation, "header", |other| other.eq_ignore_ascii_case(name)) {
        return;
    }
    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
    if let Some(parameters) = parameters.as_array_mut() {
        parameters.push(json!({
            "name": name, "in": "header", "required": false, "description": description,
            "schema": { "type": "string" },
        }));
    }
}

fn shared_header(component: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{component}") })
}

/// Whether an operation has an answer with an entity tag: JSON, or a file that never changes.
fn has_entity_tag(operation: &Operation) -> bool {
    let responses = operation.get("responses");
    responses.is_some_and(|responses| {
        let is_json = responses["200"]["content"].get("application/json").is_some();
        is_json || responses.get("304").is_some()
    })
}
