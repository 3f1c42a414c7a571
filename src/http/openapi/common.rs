//! The answers that many operations have in common, and which operations these are.

use serde_json::Value;

use super::Operation;
use crate::domain::code::Code;

/// An answer that many operations have in common.
pub(super) struct Common {
    pub(super) status: &'static str,
    /// Its name among the components.
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) codes: &'static [Code],
    pub(super) applies: fn(&Operation) -> bool,
}

/// Headers that are refused if they have another form, and that form.
pub(super) const STRICT_HEADERS: &[(&str, &str)] = &[
    ("if-match", r#"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$"#),
    ("idempotency-key", "^[!-~]([ -~]{0,253}[!-~])?$"),
    ("last-event-id", "^[0-9]*$"),
];

/// Every one, in the order of their status.
pub(super) const COMMON: &[Common] = &[
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
        description: "A header cannot be read; `detail` says which.",
        codes: &[Code::MalformedHeader],
        applies: |operation| {
            has_parameter(operation, "header", |name| {
                STRICT_HEADERS.iter().any(|(strict, _)| name.eq_ignore_ascii_case(strict))
            })
        },
    },
    Common {
        status: "401",
        name: "Unauthenticated",
        description: "The service asks for keys, and the request has none that is valid.",
        codes: &[Code::Unauthenticated],
        applies: needs_key,
    },
    Common {
        status: "403",
        name: "Forbidden",
        description: "The key has not the scope, or the page's origin is not allowed.",
        codes: &[Code::MissingScope, Code::OriginNotAllowed],
        applies: needs_key,
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
        status: "421",
        name: "UnknownHost",
        description: "The service does not answer under this host name.",
        codes: &[Code::UnknownHost],
        applies: |_| true,
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
        status: "429",
        name: "RateLimited",
        description: "Too many requests for now: send the request again after `Retry-After` seconds.",
        codes: &[Code::RateLimited],
        applies: needs_key,
    },
    Common {
        status: "429",
        name: "QuotaExceeded",
        description: "Or the project has as much as its quota allows.",
        codes: &[Code::QuotaExceeded],
        applies: |operation| needs_key(operation) && has_body(operation),
    },
    Common {
        status: "500",
        name: "InternalError",
        description: "A bug, or a file that is gone or damaged: report it with the `request_id`.",
        codes: &[Code::ObjectMissing, Code::ObjectDamaged, Code::InternalError],
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

/// Whether a client can say which revision it means to change.
fn has_precondition(operation: &Operation) -> bool {
    has_parameter(operation, "header", |name| name.eq_ignore_ascii_case("if-match"))
}

/// Whether the operation is for callers with a key, where the service asks for keys.
fn needs_key(operation: &Operation) -> bool {
    let security = operation.get("security").and_then(Value::as_array);
    security.is_some_and(|security| !security.is_empty())
}

fn has_body(operation: &Operation) -> bool {
    operation.contains_key("requestBody")
}

/// Whether the operation returns a file that never changes.
pub(super) fn is_download(operation: &Operation) -> bool {
    let responses = operation.get("responses");
    responses.is_some_and(|responses| {
        responses.get("304").is_some() && {
            let content = responses["200"]["content"].as_object();
            content.is_some_and(|content| !content.keys().any(|kind| kind.contains("json")))
        }
    })
}

pub(super) fn has_parameter(
    operation: &Operation,
    place: &str,
    is_meant: impl Fn(&str) -> bool,
) -> bool {
    let parameters = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
    parameters
        .filter(|parameter| parameter["in"] == place)
        .any(|parameter| parameter["name"].as_str().is_some_and(&is_meant))
}
