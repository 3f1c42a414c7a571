//! The query parameters of every operation, as the document of the API has them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::{OpenApi, RefOr};

use super::error::ApiError;
use crate::domain::code::Code;
use crate::domain::invalid::{Checks, FieldError, MAX_QUOTED_CHARS, shortened};

/// The query parameters by path and method.
#[derive(Debug, Default)]
pub(super) struct Parameters(HashMap<(String, Method), BTreeSet<String>>);

impl Parameters {
    pub(super) fn of(document: &OpenApi) -> Arc<Self> {
        let mut all = HashMap::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in operations(item) {
                all.insert((path.clone(), method), query_parameters(operation));
            }
        }
        Arc::new(Self(all))
    }

    /// `None` for what the document does not have.
    fn of_operation(&self, path: &str, method: &Method) -> Option<&BTreeSet<String>> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.0.get(&(path.to_owned(), method.clone()))
    }
}

fn operations(item: &PathItem) -> impl Iterator<Item = (Method, &Operation)> {
    let all = [
        (Method::GET, &item.get),
        (Method::POST, &item.post),
        (Method::PUT, &item.put),
        (Method::PATCH, &item.patch),
        (Method::DELETE, &item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn query_parameters(operation: &Operation) -> BTreeSet<String> {
    let parameters =
        operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter),
            RefOr::Ref(_) => None,
        });
    parameters
        .filter(|parameter| matches!(parameter.parameter_in, ParameterIn::Query))
        .map(|parameter| parameter.name.clone())
        .collect()
}

/// Refuses a request with a parameter that its operation does not have, or with one that is given twice. What is not known cannot
/// have been meant: `?dry_run=true` on an operation without it would do the thing.
pub(super) async fn refuse_unknown_parameters(
    State(parameters): State<Arc<Parameters>>,
    request: Request,
    next: Next,
) -> Response {
    match check(&parameters, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(parameters: &Parameters, request: &Request) -> Result<(), ApiError> {
    let Some(query) = request.uri().query().filter(|query| !query.is_empty()) else {
        return Ok(());
    };
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let Some(known) = parameters.of_operation(path, request.method()) else { return Ok(()) };
    let mut checks = Checks::default();
    let mut seen = BTreeSet::new();
    for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
        let shown = shortened(name.to_string(), MAX_QUOTED_CHARS);
        if !known.contains(name.as_ref()) {
            let detail = match known.len() {
                0 => format!("unknown parameter `{shown}`: this operation has none, leave it out"),
                _ => {
                    let names: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                    format!("unknown parameter `{shown}`: this operation has {}", names.join(", "))
                }
            };
            checks.push(FieldError::new(shown, Code::UnknownField, detail));
        } else if !seen.insert(name) {
            let detail = format!("`{shown}` is given twice: leave one of them out");
            checks.push(FieldError::new(shown, Code::InvalidValue, detail));
        }
    }
    Ok(checks.finish()?)
}
