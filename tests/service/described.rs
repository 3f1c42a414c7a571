//! Every answer that a test gets is one that the published description has.

use serde_json::Value;

use crate::harness::Answer;

/// Fails if the operation does not describe the answer: its status, and the code of a problem.
pub(crate) fn check(method: &str, path: &str, answer: &Answer) {
    let Some(operation) = operation(method, path) else { return };
    let status = answer.status.to_string();
    let described = &operation["responses"][&status];
    // Another method than the described ones, or a path that only looks like a described one.
    if matches!(answer.body["code"].as_str(), Some("method_not_allowed" | "no_such_path")) {
        return;
    }
    let name = format!("{method} {path}: {status}");
    assert!(!described.is_null(), "{name} is not described");
    let described = match described["$ref"].as_str() {
        Some(path) => vstar::http::openapi().value().pointer(&path[1..]).unwrap(),
        None => described,
    };
    if answer.header("content-type") == "application/problem+json" {
        let listed = described["x-codes"].as_array().unwrap();
        let errors = answer.body["errors"].as_array().into_iter().flatten();
        for code in errors.map(|error| &error["code"]).chain([&answer.body["code"]]) {
            assert!(
                listed.contains(code),
                "{name} does not list {code}: see src/http/openapi/codes.rs"
            );
        }
    }
}

/// What is said about the operation with this path.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let paths = vstar::http::openapi().value()["paths"].as_object().unwrap();
    let is_template_of = |template: &str| {
        template.split('/').count() == path.split('/').count()
            && template
                .split('/')
                .zip(path.split('/'))
                .all(|(wanted, given)| wanted == given || wanted.starts_with('{'))
    };
    // A path without parameters comes first: `/v1/merges/check` is no merge.
    let mut fitting: Vec<_> = paths.iter().filter(|(path, _)| is_template_of(path)).collect();
    fitting.sort_by_key(|(path, _)| path.contains('{'));
    fitting.first()?.1.get(method.to_lowercase())
}
