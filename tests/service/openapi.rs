//! The published description of the API.

use std::path::Path;

use vstar::domain::code::Code;

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
fn every_path_has_a_summary_and_a_tag() {
    let document: serde_json::Value =
        serde_json::from_str(&vstar::http::openapi().to_json().unwrap()).unwrap();

    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20, "{}", paths.len());
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(operation["tags"][0].is_string(), "{method} {path}");
        }
    }
}

#[test]
fn the_description_lists_every_code_and_mentions_no_other() {
    let document: serde_json::Value =
        serde_json::from_str(&vstar::http::openapi().to_json().unwrap()).unwrap();

    let listed = document["components"]["schemas"]["Code"]["enum"].as_array().unwrap();
    let all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed, &all);
    for (path, methods) in document["paths"].as_object().unwrap() {
        let operations = methods.as_object().unwrap().values();
        let responses =
            operations.flat_map(|operation| operation["responses"].as_object().unwrap());
        for (status, response) in responses.filter(|(status, _)| status.as_str() >= "400") {
            let description = response["description"].as_str().unwrap_or_default();
            let quoted =
                description.split('`').skip(1).step_by(2).filter(|word| word.contains('_'));
            for code in quoted.filter(|word| !word.contains('/')) {
                assert!(all.contains(&code), "{code}: {status} of {path}");
            }
        }
    }
}
