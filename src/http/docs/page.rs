//! The page: every operation by tag, then every schema, then every code.

use std::fmt::Write as _;

use serde_json::Value;

use super::markup::{blocks, escaped, inline};

pub(super) const STYLE: &str = include_str!("style.css");

/// The description of the API as one page, without scripts.
pub(super) fn html(document: &Value) -> String {
    let info = &document["info"];
    let title = text(&info["title"]);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}: the API</title>\
         <style>{STYLE}</style></head><body>",
        title = escaped(title),
    );
    let operations = by_tag(document);
    navigation(&operations, &mut page);
    let _ = write!(
        page,
        "<main><h1>{} <small>{}</small></h1>{}<p><a href=\"/openapi.json\">The same as OpenAPI 3.1</a></p>",
        escaped(title),
        escaped(text(&info["version"])),
        blocks(text(&info["description"])),
    );
    for tag in &operations {
        let _ = write!(
            page,
            "<section><h2 id=\"tag-{}\">{}</h2>{}",
            anchor(tag.name),
            escaped(tag.name),
            blocks(tag.description),
        );
        for operation in &tag.operations {
            write_operation(document, operation, &mut page);
        }
        page.push_str("</section>");
    }
    page.push_str("<section><h2 id=\"schemas\">Schemas</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        write_schema(name, schema, &mut page);
    }
    page.push_str("</section></main></body></html>\n");
    page
}

struct Tag<'a> {
    name: &'a str,
    description: &'a str,
    operations: Vec<Operation<'a>>,
}

struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    said: &'a Value,
}

fn by_tag(document: &Value) -> Vec<Tag<'_>> {
    let tags = document["tags"].as_array().into_iter().flatten();
    tags.map(|tag| Tag {
        name: text(&tag["name"]),
        description: text(&tag["description"]),
        operations: crate::http::openapi::operations(document)
            .filter(|(_, _, said)| said["tags"][0] == tag["name"])
            .map(|(path, method, said)| Operation { method, path, said })
            .collect(),
    })
    .collect()
}

fn navigation(tags: &[Tag<'_>], page: &mut String) {
    page.push_str("<nav>");
    for tag in tags {
        let _ = write!(
            page,
            "<details><summary><a href=\"#tag-{}\">{}</a></summary><ul>",
            anchor(tag.name),
            escaped(tag.name),
        );
        for operation in &tag.operations {
            let _ = write!(
                page,
                "<li><a href=\"#{}\"><b class=\"{m}\">{m}</b> {}</a></li>",
                id(operation),
                escaped(operation.path),
                m = operation.method,
            );
        }
        page.push_str("</ul></details>");
    }
    page.push_str("<p><a href=\"#schemas\">Schemas</a></p><p><a href=\"#schema-Code\">Error codes</a></p></nav>");
}

fn write_operation(document: &Value, operation: &Operation<'_>, page: &mut String) {
    let said = operation.said;
    let _ = write!(
        page,
        "<article id=\"{}\"><h3><b class=\"{m}\">{m}</b> <code>{}</code></h3><p class=\"summary\">{}</p>{}",
        id(operation),
        escaped(operation.path),
        inline(text(&said["summary"])),
        blocks(text(&said["description"])),
        m = operation.method,
    );
    write_parameters(said, page);
    for (kind, media) in said["requestBody"]["content"].as_object().into_iter().flatten() {
        let _ = write!(page, "<h4>Body <small>{}</small></h4>", escaped(kind));
        let schema = resolved(document, &media["schema"]);
        if schema["properties"].is_object() {
            write_fields(schema, page);
        } else {
            let _ = write!(
                page,
                "<p>{} {}</p>",
                kind_of(&media["schema"]),
                inline(text(&said["requestBody"]["description"]))
            );
        }
    }
    page.push_str("<h4>Answers</h4><table>");
    for (status, response) in said["responses"].as_object().into_iter().flatten() {
        let response = resolved(document, response);
        let kinds = response["content"].as_object().into_iter().flatten();
        let kinds: Vec<String> = kinds
            .filter(|(kind, _)| *kind != "application/problem+json")
            .map(|(kind, media)| match kind.as_str() {
                "application/json" => kind_of(&media["schema"]),
                other => escaped(other),
            })
            .collect();
        let _ = write!(
            page,
            "<tr><th><code>{}</code></th><td>{}</td><td>{}</td></tr>",
            escaped(status),
            kinds.join(", "),
            inline(text(&response["description"])),
        );
    }
    page.push_str("</table></article>");
}

fn write_parameters(said: &Value, page: &mut String) {
    let Some(parameters) = said["parameters"].as_array().filter(|list| !list.is_empty()) else {
        return;
    };
    page.push_str("<h4>Parameters</h4><table>");
    for parameter in parameters {
        let _ = write!(
            page,
            "<tr><th><code>{}</code></th><td>{}, {}{}</td><td>{}</td></tr>",
            escaped(text(&parameter["name"])),
            escaped(text(&parameter["in"])),
            kind_of(&parameter["schema"]),
            if parameter["required"] == true { ", required" } else { "" },
            inline(text(&parameter["description"])),
        );
    }
    page.push_str("</table>");
}

fn write_schema(name: &str, schema: &Value, page: &mut String) {
    let _ = write!(
        page,
        "<article id=\"schema-{n}\"><h3><code>{n}</code></h3>{}",
        blocks(text(&schema["description"])),
        n = escaped(name),
    );
    if schema["properties"].is_object() {
        write_fields(schema, page);
    } else if let Some(alternatives) = schema["oneOf"].as_array() {
        for alternative in alternatives {
            let _ = write!(
                page,
                "<h4>{}</h4>{}",
                kind_of(alternative),
                blocks(text(&alternative["description"]))
            );
            write_fields(alternative, page);
        }
    } else if name != "Code" {
        let _ = write!(page, "<p>{}</p>", kind_of(schema));
    }
    page.push_str("</article>");
}

fn write_fields(schema: &Value, page: &mut String) {
    let Some(fields) = schema["properties"].as_object() else { return };
    let required = schema["required"].as_array();
    page.push_str("<table>");
    for (name, field) in fields {
        let needed =
            required.is_some_and(|required| required.iter().any(|one| one == name.as_str()));
        let _ = write!(
            page,
            "<tr><th><code>{}</code>{}</th><td>{}</td><td>{}</td></tr>",
            escaped(name),
            if needed { "<sup title=\"required\">*</sup>" } else { "" },
            kind_of(field),
            blocks(text(&field["description"])),
        );
    }
    page.push_str("</table>");
}

/// The type of a value, with a link to its schema.
fn kind_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("<a href=\"#schema-{n}\">{n}</a>", n = escaped(name));
    }
    if let Some(alternatives) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        return alternatives.iter().map(kind_of).collect::<Vec<_>>().join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().map(|value| format!("<code>{}</code>", escaped(text(value))));
        return values.collect::<Vec<_>>().join(" or ");
    }
    if let Some(value) = schema["const"].as_str() {
        return format!("<code>{}</code>", escaped(value));
    }
    let one = |name: &str| match name {
        "array" => format!("list of {}", kind_of(&schema["items"])),
        "string" if schema["format"] == "binary" => "file".to_owned(),
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object with values {}", kind_of(&schema["additionalProperties"]))
        }
        other => escaped(other),
    };
    match &schema["type"] {
        Value::String(name) => one(name),
        Value::Array(names) => {
            names.iter().map(|name| one(text(name))).collect::<Vec<_>>().join(" or ")
        }
        _ => "any value".to_owned(),
    }
}

/// What a reference leads to.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let path = value["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
    path.and_then(|path| document.pointer(path)).unwrap_or(value)
}

fn id(operation: &Operation<'_>) -> String {
    escaped(text(&operation.said["operationId"]))
}

fn anchor(name: &str) -> String {
    name.replace(' ', "-")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
