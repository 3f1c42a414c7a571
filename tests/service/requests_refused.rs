//! Fields and parameters that do not exist, at every place of every operation that the document of the API has.

use reqwest::Method;
use serde_json::{Map, Value, json};
use sqlx::PgPool;

use crate::harness::Service;

/// The name that no operation has.
const UNKNOWN: &str = "zzz_unknown";

fn document() -> Value {
    serde_json::from_str(&vstar::http::openapi().to_json().unwrap()).unwrap()
}

/// Every operation: method, path, and its part of the document.
fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &Value)| {
        let operations = item.as_object().unwrap().iter();
        let operations = operations.filter_map(|(method, operation)| {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).ok()?;
            Some((method, real_path(path, operation), operation.clone()))
        });
        operations.collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

/// The path with ids of the right kinds, which name nothing.
fn real_path(path: &str, operation: &Value) -> String {
    let none = Vec::new();
    let parameters = operation["parameters"].as_array().unwrap_or(&none).iter();
    parameters.filter(|parameter| parameter["in"] == "path").fold(path.to_owned(), |path, one| {
        let name = one["name"].as_str().unwrap();
        let pattern = resolved(&document(), &one["schema"])["pattern"].as_str().map(str::to_owned);
        let id = match pattern {
            Some(pattern) => format!("{}_{}", &pattern[1..4], "0".repeat(26)),
            None if one["schema"]["type"] == "integer" => "0".to_owned(),
            None => "rex".to_owned(),
        };
        path.replace(&format!("{{{name}}}"), &id)
    })
}

fn resolved(document: &Value, schema: &Value) -> Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            let name = reference.rsplit('/').next().unwrap();
            resolved(document, &document["components"]["schemas"][name])
        }
        None => schema.clone(),
    }
}

/// Values that have the form of a schema, with all its fields: together they have every variant of every choice.
fn examples(document: &Value, schema: &Value) -> Vec<Value> {
    let schema = resolved(document, schema);
    if let Some(variants) = schema["oneOf"].as_array() {
        return variants.iter().flat_map(|variant| examples(document, variant)).collect();
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let parts = parts.iter().map(|part| examples(document, part));
        return parts.fold(vec![json!({})], |before, part| {
            let longest = before.len().max(part.len());
            let merged = (0..longest).map(|index| {
                let mut both = before[index.min(before.len() - 1)].as_object().unwrap().clone();
                both.extend(part[index.min(part.len() - 1)].as_object().unwrap().clone());
                Value::Object(both)
            });
            merged.collect()
        });
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("object") => objects(document, &schema),
        Some("array") => {
            let count = schema["minItems"].as_u64().unwrap_or(1).max(1) as usize;
            let items = examples(document, &schema["items"]);
            let list = items.iter().cycle().take(count.max(items.len())).cloned();
            let is_pair = schema["minItems"] == schema["maxItems"] && schema["minItems"].is_u64();
            vec![list.take(if is_pair { count } else { usize::MAX }).collect()]
        }
        Some("string") => vec![schema["enum"].get(0).cloned().unwrap_or_else(|| json!("x"))],
        Some("integer") => vec![schema["minimum"].as_u64().unwrap_or(1).into()],
        Some("number") => vec![json!(0.5)],
        Some("boolean") => vec![json!(false)],
        Some("null") => vec![],
        Some(_) | None => vec![json!({})],
    }
}

fn objects(document: &Value, schema: &Value) -> Vec<Value> {
    let none = Map::new();
    let mut objects = vec![Map::new()];
    for (name, schema) in schema["properties"].as_object().unwrap_or(&none) {
        let values = examples(document, schema);
        let longest = objects.len().max(values.len());
        objects = (0..longest)
            .map(|index| {
                let mut object = objects[index.min(objects.len() - 1)].clone();
                if let Some(value) = values.get(index.min(values.len().saturating_sub(1))) {
                    object.insert(name.clone(), value.clone());
                }
                object
            })
            .collect();
    }
    objects.into_iter().map(Value::Object).collect()
}

/// The pointers of all objects in a value that have fields.
fn objects_in(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                objects_in(value, format!("{at}/{name}"), found);
            }
            found.push(at);
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                objects_in(item, format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_unknown_field_is_refused_at_every_level_of_every_body(db: PgPool) {
    let service = Service::with_evaluator(db).await;
    let document = document();
    let before = service.contents().await;
    let mut places = 0;

    for (method, path, operation) in operations(&document) {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        for example in examples(&document, schema) {
            let mut pointers = Vec::new();
            objects_in(&example, String::new(), &mut pointers);
            for pointer in pointers {
                let mut body = example.clone();
                let object = body.pointer_mut(&pointer).unwrap().as_object_mut().unwrap();
                object.insert(UNKNOWN.to_owned(), json!(1));

                let answer = service.send(service.request(method.clone(), &path).json(&body)).await;

                places += 1;
                if path.starts_with("/openai/") {
                    // Refusals have another form there; the field is named in it.
                    assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
                    let text = String::from_utf8_lossy(&answer.bytes);
                    assert!(text.contains(UNKNOWN), "{method} {path}: {text}");
                    continue;
                }
                let problem = answer.problem();
                assert_eq!(problem.0, 422, "{method} {path} {pointer}: {answer:?}");
                let errors = answer.body["errors"].as_array().unwrap();
                let told: Vec<_> =
                    errors.iter().map(|error| (&error["pointer"], &error["code"])).collect();
                let expected = (&json!(format!("{pointer}/{UNKNOWN}")), &json!("unknown_field"));
                assert_eq!(told, [expected], "{method} {path} {body}");
            }
        }
    }

    assert!(places > 40, "{places}");
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_unknown_parameter_is_refused_on_every_operation(db: PgPool) {
    let service = Service::start(db).await;
    let document = document();
    let before = service.contents().await;

    for (method, path, _) in operations(&document) {
        let request =
            service.request(method.clone(), &format!("{path}?{UNKNOWN}=1&dry%5Frun=true"));
        let answer = service.send(request.json(&json!({}))).await;

        if path.starts_with("/openai/") {
            assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
            continue;
        }
        let expected = vec![UNKNOWN, "dry_run"];
        assert_eq!(answer.problem(), (422, "unknown_field", expected), "{method} {path}");
    }

    let twice = service.get("/v1/concepts?limit=1&limit=2").await;
    assert_eq!(twice.problem(), (422, "invalid_value", vec!["limit"]));
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn json_of_the_wrong_form_is_not_called_something_else(db: PgPool) {
    let service = Service::start(db).await;

    for (body, code, pointers) in [
        (json!({ "prompt": "a dog", "scheduler": 5 }), "invalid_value", vec!["/scheduler"]),
        (
            json!({ "prompt": "a dog", "guidance_interval": [0, 1, 2] }),
            "invalid_value",
            vec!["/guidance_interval"],
        ),
        (
            json!({ "prompt": 1, "n": "two", "cfg": 7 }),
            "validation_failed",
            vec!["/cfg", "/n", "/prompt"],
        ),
    ] {
        let answer = service.post("/v1/samples", body).await;
        assert_eq!(answer.problem(), (422, code, pointers));
        let detail = answer.text("detail");
        for word in ["usize", "f64", "struct", "variant", "newtype", "unit", "line 1"] {
            assert!(!detail.contains(word), "{detail}");
        }
    }
    let nothing = service.post("/v1/concepts", json!({})).await;
    assert_eq!(nothing.problem(), (422, "missing_field", vec!["/class_noun", "/handle"]));
    let absent = json!({ "concepts": ["rex"], "preset": null, "recipe": null, "seed": null });
    let absent = service.post("/v1/trainings", absent).await;
    assert_eq!(absent.problem(), (422, "unknown_concept", vec!["/concepts/0"]));
    let other =
        service.post("/v1/trainings", json!({ "concepts": ["rex"], "start_from": "rex" })).await;
    assert_eq!(other.problem(), (422, "invalid_value", vec!["/start_from"]));

    let handle = "x".repeat(900_000);
    let long = service.post("/v1/concepts", json!({ "handle": handle, "class_noun": "dog" })).await;
    assert_eq!(long.problem(), (422, "invalid_value", vec!["/handle"]));
    assert!(long.bytes.len() < 1500, "{} bytes", long.bytes.len());
    let of_another_kind = format!("/v1/trainings/cpt_{}", "0".repeat(26));
    assert_eq!(service.get(&of_another_kind).await.problem(), (404, "not_found", vec![]));
}
