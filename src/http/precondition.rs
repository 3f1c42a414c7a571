//! `If-Match`: a request that is made for one state of a resource.

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, header, request::Parts};
use axum::response::{IntoResponse, Response};
use utoipa::IntoParams;

use super::error::ApiError;
use crate::app::Precondition;

/// The header `If-Match`, for the document of the API.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes the header; `Precondition` reads it")]
pub(crate) struct IfMatch {
    /// Change the resource only if its `ETag` is one of these; otherwise the response is 412 and nothing is changed. `*` is any.
    #[param(rename = "if-match", required = false)]
    if_match: Option<String>,
}

/// Reads `If-Match`. Without it, any state will do.
impl<S: Send + Sync> FromRequestParts<S> for Precondition {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        if_match(&parts.headers).map_err(ApiError::into_response)
    }
}

fn if_match(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    let mut fields = headers.get_all(header::IF_MATCH).iter().peekable();
    if fields.peek().is_none() {
        return Ok(Precondition::Any);
    }
    let mut tags = Vec::new();
    for field in fields {
        let field = field.to_str().map_err(|_| unreadable())?;
        tags.extend(entity_tags(field).ok_or_else(unreadable)?);
    }
    if tags.iter().any(|tag| matches!(tag, EntityTag::Any)) {
        // `*` stands alone: RFC 9110, section 13.1.1.
        return if tags.len() == 1 { Ok(Precondition::Any) } else { Err(unreadable()) };
    }
    // The comparison is a strong one: a weak tag never matches.
    let strong = tags.iter().filter_map(|tag| match tag {
        EntityTag::Strong(opaque) => revision_of(opaque),
        EntityTag::Weak(_) | EntityTag::Any => None,
    });
    Ok(Precondition::OneOf(strong.collect()))
}

fn unreadable() -> ApiError {
    let detail = "send the ETag of the resource as it was sent, such as \"37\", or *";
    ApiError::MalformedHeader { name: header::IF_MATCH, detail: detail.to_owned() }
}

/// The revision in an entity tag: what stands before a hyphen, if there is one.
fn revision_of(opaque: &str) -> Option<i64> {
    let digits = opaque.split('-').next().unwrap_or(opaque);
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| digits.parse().ok()).flatten()
}

/// An element of `If-Match` or `If-None-Match`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntityTag<'a> {
    Any,
    Strong(&'a str),
    Weak(&'a str),
}

/// Reads a list of entity tags; `None` if it is not one.
pub(super) fn entity_tags(field: &str) -> Option<Vec<EntityTag<'_>>> {
    let mut rest = field.trim_matches([' ', '\t', ',']);
    let mut tags = Vec::new();
    while !rest.is_empty() {
        let tag;
        (tag, rest) = entity_tag(rest)?;
        tags.push(tag);
        let after = rest.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with(',') {
            return None;
        }
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    (!tags.is_empty()).then_some(tags)
}

/// The first entity tag of a text, and what follows it.
fn entity_tag(text: &str) -> Option<(EntityTag<'_>, &str)> {
    if let Some(rest) = text.strip_prefix('*') {
        return Some((EntityTag::Any, rest));
    }
    let (is_weak, quoted) = match text.strip_prefix("W/") {
        Some(quoted) => (true, quoted),
        None => (false, text),
    };
    let (opaque, rest) = quoted.strip_prefix('"')?.split_once('"')?;
    let tag = if is_weak { EntityTag::Weak(opaque) } else { EntityTag::Strong(opaque) };
    Some((tag, rest))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(fields: &[&'static str]) -> Option<Precondition> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::IF_MATCH, HeaderValue::from_static(field));
        }
        if_match(&headers).ok()
    }

    #[test]
    fn if_match_names_revisions_and_is_never_ignored() {
        let one_of = |revisions: &[i64]| Some(Precondition::OneOf(revisions.to_vec()));
        for (fields, expected) in [
            (&[][..], Some(Precondition::Any)),
            (&["*"][..], Some(Precondition::Any)),
            (&["\"37\""][..], one_of(&[37])),
            (&["\"37-2\""][..], one_of(&[37])),
            (&["\"37-gzip\"", "\"38-2-gzip\""][..], one_of(&[37, 38])),
            (&["\"1\", W/\"2\" ,\"a,b\", \"3\""][..], one_of(&[1, 3])),
            (&["\"1\"", "\"2\""][..], one_of(&[1, 2])),
            (&["W/\"37\""][..], one_of(&[])),
            (&["\"\""][..], one_of(&[])),
            (&["37"][..], None),
            (&["\"37"][..], None),
            (&["\"3\"7"][..], None),
            (&["\"37\" \"38\""][..], None),
            (&["*, \"37\""][..], None),
            (&[""][..], None),
            (&["w/\"37\""][..], None),
        ] {
            assert_eq!(read(fields), expected, "{fields:?}");
        }
    }
}
