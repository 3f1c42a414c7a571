//! The published description of the API.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use vstar::domain::code::Code;

fn document() -> &'static Value {
    vstar::http::openapi().value()
}

/// Every operation: `method path` and what is said about it.
fn operations() -> impl Iterator<Item = (String, &'static Value)> {
    document()["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap();
        methods.iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

/// Calls for every schema with the path to it.
fn each_schema(value: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, value);
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                each_schema(field, &format!("{path}/{name}"), visit);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each_schema(item, path, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_said(value: &Value) -> bool {
    value["description"].as_str().is_some_and(|text| text.len() > 5)
}

/// What a reference leads to.
fn resolved(value: &'static Value) -> &'static Value {
    let path = value["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
    path.map_or(value, |path| document().pointer(path).unwrap_or_else(|| panic!("no {path}")))
}

/// `UPDATE_OPENAPI=1 cargo test` writes the file instead; commit it with its cause.
#[test]
fn the_committed_description_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    let generated = vstar::http::openapi().to_pretty_json().unwrap() + "\n";

    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }

    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(committed == generated, "openapi/openapi.json differs from what the handlers say");
}

#[test]
fn every_operation_says_what_it_does_under_a_tag_that_is_explained() {
    let tags = document()["tags"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for (name, operation) in operations() {
        assert!(operation["summary"].is_string(), "{name}");
        let tag = &operation["tags"][0];
        assert!(
            tags.iter().any(|known| known["name"] == *tag && is_said(known)),
            "{tag} of {name}"
        );
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(is_said(parameter), "{parameter} of {name}");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(resolved(response)["description"].is_string(), "{status} of {name}");
        }
    }
    assert!(ids.len() > 50, "{}", ids.len());
}

#[test]
fn every_schema_and_every_field_is_described() {
    let mut silent = Vec::new();
    for (name, schema) in document()["components"]["schemas"].as_object().unwrap() {
        if !is_said(schema) {
            silent.push(name.clone());
        }
    }
    each_schema(document(), "", &mut |path, schema| {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            // A schema may have a field of the name `properties`.
            if field.is_object() && !is_said(field) && !path.ends_with("/properties") {
                silent.push(format!("{path}/{name}"));
            }
        }
    });

    assert!(silent.is_empty(), "without a description: {silent:#?}");
}

/// Generated clients send defaults; that would change the meaning of a request.
#[test]
fn no_default_is_sent_by_a_generated_client() {
    each_schema(document(), "", &mut |path, schema| {
        assert!(schema.get("default").is_none() || path.ends_with("/properties"), "{path}");
    });
}

/// Types of one name would describe each other: the later one replaces the earlier one.
#[test]
fn no_schema_has_parts_that_generators_cannot_join() {
    each_schema(document(), "", &mut |path, schema| {
        assert!(schema.get("allOf").is_none(), "{path}");
    });
}

#[test]
fn every_operation_lists_codes_that_exist_and_explains_what_is_common() {
    let listed = document()["components"]["schemas"]["Code"]["enum"].as_array().unwrap();
    let all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed, &all);

    for (name, operation) in operations() {
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.contains_key("500") && responses.contains_key("503"), "{name}");
        if name.contains(" /openai/") {
            // Another form, with the codes of another API beside ours.
            assert!(!responses.contains_key("422"), "{name}");
            for (status, response) in
                responses.iter().filter(|(status, _)| status.as_str() >= "400")
            {
                let schema = &response["content"]["application/json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/OpenAiError", "{status} of {name}");
            }
            continue;
        }
        if operation.get("requestBody").is_some() {
            for status in ["400", "408", "413", "415"] {
                assert!(responses.contains_key(status), "{status} of {name}");
            }
            // OpenAI's API has 400 for what is wrong in a field.
            assert!(responses.contains_key("422") || name.contains(" /openai/"), "{name}");
        }
        for (status, response) in responses.iter().filter(|(status, _)| status.as_str() >= "400") {
            let response = resolved(response);
            if name.contains(" /openai/") {
                continue;
            }
            let codes = response["x-codes"].as_array().unwrap();
            assert!(!codes.is_empty(), "{status} of {name} has no code");
            let text = response["description"].as_str().unwrap();
            for code in codes.iter().map(|code| code.as_str().unwrap()) {
                assert!(all.contains(&code), "{code}: {status} of {name}");
                assert!(text.contains(&format!("`{code}`")), "{code}: {status} of {name}");
            }
            let quoted = text.split('`').skip(1).step_by(2);
            let words = quoted.filter(|word| word.contains('_') && !word.contains(['/', '.']));
            for code in words.filter(|word| *word != "request_id") {
                assert!(all.contains(&code), "{code}: {status} of {name}");
            }
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    each_schema(document(), "", &mut |path, schema| {
        if let Some(target) = schema["$ref"].as_str() {
            let target = target.strip_prefix('#').unwrap();
            assert!(document().pointer(target).is_some(), "{target} of {path}");
        }
    });
}
