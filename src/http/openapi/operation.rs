//! What every operation can answer beside what its handler documents: broken requests, a busy service, a bug.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::codes::OF_OPERATIONS;
use super::operations_mut;
use crate::domain::code::Code;

type Operation = Map<String, Value>;

/// An answer that many operations have in common.
struct Common {
    status: &'static str,
    /// Its name among the components.
    name: &'static str,
    description: &'static str,
    codes: &'static [Code],
    applies: fn(&Operation) -> bool,
}

const COMMON: &[Common] = &[
    Common {
        status: "400",
        name: "Malformed",
        description: "The body is not what its content type promises.",
        codes: &[Code::MalformedBody],
        applies: has_body,
    },
    Common {
        status: "400",
        name: "MalformedHeader",
        description: "The header `If-Match` cannot be read.",
        codes: &[Code::MalformedHeader],
        applies: has_precondition,
    },
    Common {
        status: "404",
        name: "NotFound",
        description: "Nothing has this id.",
        codes: &[Code::NotFound, Code::NoSuchPath],
        applies: |operation| has_parameter(operation, "path", |_| true),
    },
    Common {
        status: "408",
        name: "TimedOut",
        description: "The rest of the body did not come in time.",
        codes: &[Code::RequestTimeout],
        applies: has_body,
    },
    Common {
        status: "412",
        name: "PreconditionFailed",
        description: "It has changed since the revision that `If-Match` names.",
        codes: &[Code::PreconditionFailed],
        applies: has_precondition,
    },
    Common {
        status: "413",
        name: "TooLarge",
        description: "The body is too large: 1 MiB of JSON, 512 MiB of a form.",
        codes: &[Code::BodyTooLarge],
        applies: has_body,
    },
    Common {
        status: "415",
        name: "UnsupportedMediaType",
        description: "The body has another content type than the documented one.",
        codes: &[Code::UnsupportedMediaType],
        applies: has_body,
    },
    Common {
        status: "416",
        name: "RangeNotSatisfiable",
        description: "The range lies outside of the file. `content-range` has the size.",
        codes: &[Code::RangeNotSatisfiable],
        applies: is_download,
    },
    Common {
        status: "422",
        name: "Invalid",
        description: "Something in the request is wrong; `errors` says what and where.",
        codes: &[
            Code::ValidationFailed,
            Code::UnknownField,
            Code::MissingField,
            Code::InvalidValue,
            Code::OutOfRange,
            Code::NotApplicable,
            Code::ConflictingFields,
        ],
        applies: has_body,
    },
    Common {
        status: "422",
        name: "InvalidPage",
        description: "A query parameter is wrong; `errors` says which and why.",
        codes: &[
            Code::ValidationFailed,
            Code::UnknownField,
            Code::InvalidValue,
            Code::OutOfRange,
            Code::InvalidCursor,
        ],
        applies: |operation| {
            !has_body(operation) && has_parameter(operation, "query", |name| name == "after")
        },
    },
    Common {
        status: "422",
        name: "InvalidParameter",
        description: "A parameter is wrong; `errors` says which and why.",
        codes: &[Code::ValidationFailed, Code::UnknownField, Code::InvalidValue, Code::OutOfRange],
        applies: |operation| {
            !has_body(operation) && !has_parameter(operation, "query", |name| name == "after")
        },
    },
    Common {
        status: "500",
        name: "InternalError",
        description: "A bug, or a file that is gone: report it with the `request_id`.",
        codes: &[Code::ObjectMissing, Code::InternalError],
        applies: |_| true,
    },
    Common {
        status: "503",
        name: "Unavailable",
        description: "The service cannot answer now: send the request again after `Retry-After` seconds.",
        codes: &[
            Code::ShuttingDown,
            Code::Overloaded,
            Code::DatabaseUnavailable,
            Code::StorageUnavailable,
        ],
        applies: |_| true,
    },
];

/// Adds the answers and headers that follow from the kind of operation.
pub(super) fn complete(document: &mut Value) {
    let mut used = BTreeSet::new();
    for (method, operation) in operations_mut(document) {
        if method == "get" && has_entity_tag(operation) {
            describe_entity_tag(operation);
        }
        if is_download(operation) {
            describe_download(operation);
        }
        let applying: Vec<&Common> =
            COMMON.iter().filter(|common| (common.applies)(operation)).collect();
        let operation_id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else {
            continue;
        };
        for common in applying {
            match responses.get_mut(common.status) {
                Some(own) => join(own, common),
                None => drop(responses.insert(common.status.to_owned(), reference(common))),
            }
        }
        let further = OF_OPERATIONS.iter().filter(|(id, ..)| operation_id == *id);
        for (_, status, codes) in further {
            if let Some(response) = responses.get_mut(*status) {
                add_codes(response, &codes.concat());
            }
        }
        for (status, response) in responses {
            used.extend(response["$ref"].as_str().map(str::to_owned));
            complete_response(status, response);
        }
    }
    let shared = COMMON.iter().filter(|common| used.contains(&path(common)));
    let shared: Map<String, Value> =
        shared.map(|common| (common.name.to_owned(), response(common))).collect();
    document["components"]["responses"] = Value::Object(shared);
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

fn response(common: &Common) -> Value {
    let mut response = json!({
        "description": common.description,
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    list_codes(&mut response, common.description, common.codes.to_vec());
    complete_response(common.status, &mut response);
    response
}

/// The path of an answer among the components.
fn path(common: &Common) -> String {
    format!("#/components/responses/{}", common.name)
}

fn reference(common: &Common) -> Value {
    json!({ "$ref": path(common) })
}

/// Adds codes to an answer that has some.
fn add_codes(response: &mut Value, codes: &[Code]) {
    if let Some(shared) = COMMON.iter().find(|shared| response["$ref"] == path(shared)) {
        *response = self::response(shared);
    }
    let listed = response["x-codes"].as_array().cloned().unwrap_or_default();
    let listed = Code::ALL.iter().filter(|code| listed.iter().any(|one| one == code.as_str()));
    let codes = [codes, &listed.copied().collect::<Vec<_>>()].concat();
    let text = response["description"].as_str().unwrap_or_default();
    let text = text.split(" Codes: ").next().unwrap_or_default().to_owned();
    list_codes(response, &text, codes);
}

/// Adds to an answer of an operation what all operations of its kind can answer with that status.
fn join(own: &mut Value, common: &Common) {
    if let Some(shared) = COMMON.iter().find(|shared| own["$ref"] == path(shared)) {
        let text = format!("{} {}", shared.description, common.description);
        *own = response(shared);
        list_codes(own, &text, [shared.codes, common.codes].concat());
        return;
    }
    if own["content"].get("application/problem+json").is_none() {
        return;
    }
    let text = own["description"].as_str().unwrap_or_default().to_owned();
    let mut codes = codes_in(&text);
    let text = if is_only_codes(&text) { common.description.to_owned() } else { text };
    codes.extend(common.codes);
    list_codes(own, &text, codes);
}

fn list_codes(response: &mut Value, text: &str, mut codes: Vec<Code>) {
    codes.sort_by_key(|code| Code::ALL.iter().position(|other| other == code));
    codes.dedup();
    let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let missing: Vec<&str> =
        names.iter().filter(|name| !text.contains(&format!("`{name}`"))).copied().collect();
    if !missing.is_empty() {
        let text = text.trim_end_matches(['.', ' ', ',', '…']);
        response["description"] = format!("{text}. Codes: `{}`.", missing.join("`, `")).into();
    }
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

/// Whether a client can say which revision it means to change.
fn has_precondition(operation: &Operation) -> bool {
    has_parameter(operation, "header", |name| name.eq_ignore_ascii_case("if-match"))
}

fn has_body(operation: &Operation) -> bool {
    operation.contains_key("requestBody")
}

/// Whether the operation returns a file that never changes.
fn is_download(operation: &Operation) -> bool {
    let responses = operation.get("responses");
    responses.is_some_and(|responses| {
        responses.get("304").is_some() && {
            let content = responses["200"]["content"].as_object();
            content.is_some_and(|content| !content.keys().any(|kind| kind.contains("json")))
        }
    })
}

fn has_parameter(operation: &Operation, place: &str, is_meant: impl Fn(&str) -> bool) -> bool {
    let parameters = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
    parameters
        .filter(|parameter| parameter["in"] == place)
        .any(|parameter| parameter["name"].as_str().is_some_and(&is_meant))
}
