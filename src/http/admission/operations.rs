//! Which scope an operation needs: from its method and the pattern of its path, so that no operation can be forgotten. What no
//! rule names is for administrators.

use axum::http::Method;

use crate::domain::access::{Bound, Scope};
use crate::domain::job::JobKind;
use crate::http::image::content_path;

/// Who may use an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Whoever can reach the service. What such an operation shows is meant for all, or its path is a secret.
    Nothing,
    /// Any key.
    Key,
    /// A key with this scope.
    Scope(Scope),
}

/// What an operation needs.
pub(super) fn needs(method: &Method, pattern: &str) -> Needs {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let mut segments = pattern.trim_start_matches('/').split('/');
    let first = segments.next().unwrap_or_default();
    let scope = match (first, segments.next().unwrap_or_default()) {
        // The first is the page itself.
        ("" | "assets", _) => return Needs::Nothing,
        ("livez" | "readyz" | "openapi.json" | "docs" | "votes" | "uploads", _) => {
            return Needs::Nothing;
        }
        ("v1", "me" | "usage" | "client-tokens") => return Needs::Key,
        ("v1", "projects" | "api-keys" | "audit") => Scope::Admin,
        ("v1", _) if is_weights(pattern) => Scope::WeightsRead,
        ("v1" | "openai", _) if reads || is_question(pattern) => Scope::Read,
        ("v1", "concepts" | "images" | "image-sets" | "uploads") => Scope::ConceptsWrite,
        ("v1", "trainings" | "merges" | "compressions" | "deltas") => Scope::TrainingsWrite,
        ("v1", "samples" | "evaluations" | "preference-studies") | ("openai", _) => {
            Scope::SamplesWrite
        }
        ("v1", "webhook-endpoints") => Scope::WebhooksWrite,
        _ => Scope::Admin,
    };
    Needs::Scope(scope)
}

fn is_weights(pattern: &str) -> bool {
    pattern == "/v1/deltas/{delta_id}/content"
}

/// Whether a `POST` changes nothing.
fn is_question(pattern: &str) -> bool {
    ["/v1/merges/check", "/v1/image-sets/{set}/retrieve", "/v1/concepts/{concept}/check"]
        .contains(&pattern)
}

/// Whether a request may have changed something, if it succeeds.
pub(super) fn changes(method: &Method, pattern: &str) -> bool {
    let is_safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    !is_safe && !is_question(pattern)
}

/// Whether a client token that is good for this may be used for the path.
pub(super) fn is_within(bound: Bound, method: &Method, path: &str) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match bound {
        Bound::Concept(concept) => {
            let of_concept = path.strip_prefix(&format!("/v1/concepts/{concept}"));
            match of_concept {
                Some("") => reads,
                Some("/images") => reads || *method == Method::POST,
                Some("/check") => reads || *method == Method::POST,
                Some(_) | None => false,
            }
        }
        Bound::Job(kind, job) => {
            use crate::domain::id::{CompressionId, EvaluationId, MergeId, SampleId, TrainingId};
            let job = match kind {
                JobKind::Training => format!("/v1/trainings/{}", TrainingId::from(job)),
                JobKind::Merge => format!("/v1/merges/{}", MergeId::from(job)),
                JobKind::Sample => format!("/v1/samples/{}", SampleId::from(job)),
                JobKind::Evaluation => format!("/v1/evaluations/{}", EvaluationId::from(job)),
                JobKind::Compression => format!("/v1/compressions/{}", CompressionId::from(job)),
            };
            reads && matches!(path.strip_prefix(&job), Some("" | "/events"))
        }
        Bound::Image(image) => reads && path == content_path(image),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{ConceptId, ImageId, JobId, SampleId};

    #[test]
    fn each_operation_needs_the_scope_of_its_noun() {
        use Needs::{Key, Nothing};
        for (method, pattern, expected) in [
            (Method::GET, "/v1/concepts/{concept}", Needs::Scope(Scope::Read)),
            (Method::DELETE, "/v1/concepts/{concept}", Needs::Scope(Scope::ConceptsWrite)),
            (Method::GET, "/v1/deltas/{delta_id}/content", Needs::Scope(Scope::WeightsRead)),
            (Method::HEAD, "/v1/deltas/{delta_id}/content", Needs::Scope(Scope::WeightsRead)),
            (Method::POST, "/v1/merges/check", Needs::Scope(Scope::Read)),
            (Method::POST, "/v1/merges", Needs::Scope(Scope::TrainingsWrite)),
            (Method::POST, "/v1/api-keys", Needs::Scope(Scope::Admin)),
            (Method::GET, "/v1/api-keys", Needs::Scope(Scope::Admin)),
            (Method::POST, "/v1/of-a-later-version", Needs::Scope(Scope::Admin)),
            (Method::GET, "/metrics", Needs::Scope(Scope::Admin)),
            (Method::GET, "/v1/me", Key),
            (Method::GET, "/livez", Nothing),
            (Method::GET, "/", Nothing),
            (Method::GET, "/assets/{digest}/{*path}", Nothing),
            (Method::PUT, "/uploads/{token}", Nothing), // the token is the right
            (Method::POST, "/v1/uploads", Needs::Scope(Scope::ConceptsWrite)),
        ] {
            assert_eq!(needs(&method, pattern), expected, "{method} {pattern}");
        }
    }

    #[test]
    fn a_token_is_good_for_its_own_thing_alone() {
        let (concept, other) = (ConceptId::generate(), ConceptId::generate());
        let of_concept = Bound::Concept(concept);
        let path = |id: ConceptId, rest: &str| format!("/v1/concepts/{id}{rest}");

        assert!(is_within(of_concept, &Method::GET, &path(concept, "")));
        assert!(is_within(of_concept, &Method::POST, &path(concept, "/images")));
        assert!(!is_within(of_concept, &Method::DELETE, &path(concept, "")));
        assert!(!is_within(of_concept, &Method::POST, &path(concept, "/promote")));
        assert!(!is_within(of_concept, &Method::GET, &path(other, "")));
        assert!(!is_within(of_concept, &Method::GET, "/v1/concepts"));

        let job = JobId::generate();
        let of_job = Bound::Job(JobKind::Sample, job);
        let path = format!("/v1/samples/{}", SampleId::from(job));
        assert!(is_within(of_job, &Method::GET, &format!("{path}/events")));
        assert!(!is_within(of_job, &Method::POST, &format!("{path}/cancel")));
        assert!(!is_within(of_job, &Method::GET, &format!("{path}0/events")));

        let (image, other) = (ImageId::generate(), ImageId::generate());
        let of_image = Bound::Image(image);
        assert!(is_within(of_image, &Method::GET, &content_path(image)));
        assert!(!is_within(of_image, &Method::GET, &content_path(other)));
        assert!(!is_within(of_image, &Method::GET, &format!("/v1/images/{image}/manifest")));
        assert!(!is_within(of_image, &Method::DELETE, &format!("/v1/images/{image}")));
    }
}
