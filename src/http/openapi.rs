//! The published description of the API: what the handlers say, completed by what holds for all of them.
//!
//! Handlers describe what is theirs. What every operation has in common is added here, so that it is written once: answers to
//! broken requests, codes, headers, tags. Types that only Rust puts together, such as flattened structs, become plain objects, which
//! generators of clients understand.

mod codes;
mod common;
mod openai;
mod operation;
mod schema;
mod words;

use serde::Serialize;
use serde::ser::Error as _;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

/// Every tag with what its operations are about, in the order of the documentation.
const TAGS: &[(&str, &str)] = &[
    ("capabilities", "What this service supports: the base model, its defaults and limits."),
    ("concepts", "What is taught: a word for prompts, and photos."),
    ("uploads", "Files that are sent to the object store directly."),
    ("trainings", "Jobs that learn concepts from their photos. The result is a delta."),
    ("deltas", "What trainings, merges and compressions have made, with their files."),
    ("compressions", "Jobs that make a delta smaller."),
    ("merges", "Jobs that make one delta of several."),
    ("samples", "Jobs that generate images of a prompt."),
    ("images", "Photos, start images and generated images, with their files and manifests."),
    ("image sets", "Sets of captioned images that trainings and evaluations use."),
    ("evaluations", "Jobs that measure how well deltas do."),
    ("preference studies", "Comparisons of two subjects by people."),
    ("jobs", "What trainings, merges, samples, evaluations and compressions have in common."),
    ("webhooks", "Notifications of changes, after the Standard Webhooks specification."),
    ("projects", "Who owns what: nothing of one project is visible to another."),
    ("keys", "API keys and tokens for browsers."),
    ("audit", "Who wrote what."),
    ("usage", "Limits, and what is used of them."),
    ("openai", "A subset of OpenAI's API for images, for programs that speak it."),
    ("health", "Whether the process is alive, whether it can serve, and how it does."),
];

/// An operation as JSON.
type Operation = Map<String, Value>;

/// A description as it is published.
#[derive(Clone, Debug)]
pub struct Document(Value);

impl Document {
    /// Completes what the handlers say.
    pub(super) fn of(described: &OpenApi) -> Self {
        // It is made of maps with texts as keys, so it is always JSON.
        let mut document = serde_json::to_value(described).unwrap_or_default();
        schema::make_plain(&mut document);
        operation::complete(&mut document);
        words::complete(&mut document);
        openai::complete(&mut document);
        describe_service(&mut document);
        schema::drop_unused(&mut document);
        Self(document)
    }

    /// The description as JSON.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The description as a text without white space.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.0)
    }

    /// The description as it is committed.
    pub fn to_pretty_json(&self) -> serde_json::Result<String> {
        // One space: the document is deep, and is committed.
        let mut text = Vec::new();
        let formatter = PrettyFormatter::with_indent(b" ");
        self.0.serialize(&mut Serializer::with_formatter(&mut text, formatter))?;
        String::from_utf8(text).map_err(serde_json::Error::custom)
    }
}

fn describe_service(document: &mut Value) {
    document["info"]["license"] = json!({ "name": "Apache-2.0", "identifier": "Apache-2.0" });
    document["servers"] =
        json!([{ "url": "/", "description": "The service that serves this document" }]);
    let used: Vec<String> = operations(document)
        .flat_map(|(_, _, operation)| operation["tags"].as_array().cloned().unwrap_or_default())
        .filter_map(|tag| tag.as_str().map(str::to_owned))
        .collect();
    let tags = TAGS.iter().filter(|(name, _)| used.iter().any(|tag| tag == name));
    document["tags"] = tags
        .map(|(name, description)| json!({ "name": name, "description": description }))
        .collect();
}

/// Every operation: its path, its method in lower case, and what is said about it.
pub(super) fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().into_iter().flatten();
        methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

/// The same to change: the method, and what is said.
fn operations_mut(document: &mut Value) -> impl Iterator<Item = (&str, &mut Map<String, Value>)> {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    paths.flat_map(|(_, methods)| {
        let methods = methods.as_object_mut().into_iter().flatten();
        methods
            .filter_map(|(method, operation)| Some((method.as_str(), operation.as_object_mut()?)))
    })
}
