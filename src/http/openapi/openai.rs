//! Operations of the OpenAI door answer errors in that API's form: other statuses, another body.

use serde_json::{Map, Value, json};

/// Rewrites the errors of these operations.
pub(super) fn complete(document: &mut Value) {
    let shared = document["components"]["responses"].clone();
    let Some(paths) = document["paths"].as_object_mut() else { return };
    let ours = paths.iter_mut().filter(|(path, _)| path.starts_with("/openai/"));
    for operation in
        ours.filter_map(|(_, methods)| methods.as_object_mut()).flat_map(Map::values_mut)
    {
        if let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) {
            let described = std::mem::take(responses);
            for (status, response) in described {
                rewrite(responses, &shared, &status, response);
            }
        }
    }
}

fn rewrite(responses: &mut Map<String, Value>, shared: &Value, status: &str, response: Value) {
    if !status.starts_with(['4', '5']) {
        responses.insert(status.to_owned(), response);
        return;
    }
    let response = match response["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        Some(name) => shared[name].clone(),
        None => response,
    };
    let status = if status == "422" { "400" } else { status };
    let text = response["description"].as_str().unwrap_or_default();
    match responses.get_mut(status) {
        Some(known) => {
            let both = format!("{} {text}", known["description"].as_str().unwrap_or_default());
            known["description"] = both.trim().into();
        }
        None => {
            let schema = json!({ "$ref": "#/components/schemas/OpenAiError" });
            let mut ours = json!({ "description": text, "content": { "application/json": { "schema": schema } } });
            if let Some(headers) = response.get("headers") {
                ours["headers"] = headers.clone();
            }
            responses.insert(status.to_owned(), ours);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_door_have_its_form_and_those_of_others_stay() {
        let problem =
            json!({ "description": "Invalid.", "content": { "application/problem+json": {} } });
        let responses = json!({
            "200": { "description": "OK" }, "400": { "description": "Malformed." },
            "422": { "$ref": "#/components/responses/Invalid" },
        });
        let operation = json!({ "post": { "responses": responses } });
        let mut document = json!({
            "paths": { "/openai/v1/x": operation, "/v1/x": operation },
            "components": { "responses": { "Invalid": problem } },
        });

        complete(&mut document);

        assert_eq!(document["paths"]["/v1/x"], operation);
        let ours = &document["paths"]["/openai/v1/x"]["post"]["responses"];
        assert_eq!(ours["400"]["description"], "Malformed. Invalid.");
        assert!(ours["400"]["content"]["application/json"].is_object());
        assert_eq!((&ours["422"], &ours["200"]), (&Value::Null, &responses["200"]));
    }
}
