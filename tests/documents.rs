//! The documents say where things are: what they name exists.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every document for readers, below the top of the repository.
fn documents() -> Vec<PathBuf> {
    let mut documents = Vec::new();
    for folder in [".", "docs", "docs/adr"] {
        for entry in fs::read_dir(top().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    documents.sort();
    documents
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands between `open` and `close`, each time.
fn between<'a>(text: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0))
}

/// The document without its blocks of code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

#[test]
fn every_link_leads_to_a_file() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = prose(&fs::read_to_string(&document).unwrap());
        for link in between(&text, "](", ')') {
            let (file, _) = link.split_once('#').unwrap_or((link, ""));
            let leads = file.is_empty()
                || file.contains("://")
                || document.parent().unwrap().join(file).exists();
            if !leads {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }

    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_file_that_a_document_names_exists() {
    let folders = ["src/", "tests/", "benches/", "docs/", "examples/", "migrations/", ".ci/"];
    let mut missing = Vec::new();
    for document in documents() {
        let text = prose(&fs::read_to_string(&document).unwrap());
        // Code within a sentence: every second piece.
        for name in text.split('`').skip(1).step_by(2) {
            let is_path = folders.iter().any(|folder| name.starts_with(folder))
                && !name.contains(['<', '{', '*', ' '])
                && !name.contains("NNNN");
            if is_path && !top().join(name).exists() {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }

    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_decision_that_is_cited_is_recorded() {
    let mut records = BTreeSet::new();
    let list = fs::read_to_string(top().join("docs/adr/README.md")).unwrap();
    for entry in fs::read_dir(top().join("docs/adr")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some((number, _)) = name.split_once('-') {
            assert!(list.contains(&name), "docs/adr/README.md does not list {name}");
            records.insert(number.to_owned());
        }
    }
    let mut files = documents();
    files.extend(sources(&top().join("src")));

    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for rest in text.split("ADR ").skip(1) {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let is_recorded = number.len() != 4 || records.contains(&number);
            assert!(is_recorded, "{} cites ADR {number}", file.display());
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[test]
fn the_error_codes_of_the_documents_are_those_of_the_api() {
    let openapi = fs::read(top().join("openapi/openapi.json")).unwrap();
    let openapi: serde_json::Value = serde_json::from_slice(&openapi).unwrap();
    let codes = openapi["components"]["schemas"]["Code"]["enum"].as_array().unwrap();
    let codes: Vec<&str> = codes.iter().filter_map(|code| code.as_str()).collect();

    let text = fs::read_to_string(top().join("docs/api.md")).unwrap();
    let (_, table) = text.split_once("<!-- begin codes").unwrap();
    let (table, _) = table.split_once("<!-- end codes").unwrap();
    let listed: Vec<&str> = between(table, "\n| `", '`').collect();

    assert_eq!(listed, codes);
}

#[test]
fn the_readme_fits_on_a_page() {
    let text = fs::read_to_string(top().join("README.md")).unwrap();

    assert!(text.lines().count() <= 130);
}
