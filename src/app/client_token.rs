//! Client tokens: what a page gets instead of a key. They are good for a short time and for one thing.

use std::ops::RangeInclusive;

use chrono::{DateTime, TimeDelta, Utc};

use super::access::{ClientToken, sign};
use super::{App, Caller, Refusal};
use crate::domain::access::Bound;
use crate::domain::code::Code;
use crate::domain::compression::CompressionTask;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::id::{CompressionId, EvaluationId, ImageId, MergeId, SampleId, TrainingId};
use crate::domain::invalid::FieldError;
use crate::domain::job::JobKind;
use crate::domain::merge::MergeTask;
use crate::domain::sample::SampleTask;
use crate::domain::training::task::TrainingTask;

/// How long a client token may be good, in seconds.
pub const TOKEN_SECONDS: RangeInclusive<u64> = 1..=900;
/// How long it is if the request does not say.
pub const DEFAULT_TOKEN_SECONDS: u64 = 300;
/// How long the token of an image is good: as long as the URLs of OpenAI's API.
pub const IMAGE_TOKENS_LAST: TimeDelta = TimeDelta::minutes(60);

/// A client token to make; exactly one of `concept` and `job` is given.
#[derive(Clone, Debug)]
pub struct NewClientToken {
    /// The id or the handle of a concept.
    pub concept: Option<String>,
    /// The id of a job of any kind.
    pub job: Option<String>,
    pub origin: Option<String>,
    pub seconds: Option<u64>,
}

/// A client token.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    pub text: String,
    pub bound: Bound,
    pub origin: Option<String>,
    pub expires_at: DateTime<Utc>,
}

impl App {
    /// Makes a client token, which can do no more than the caller's own key.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if what it is to be good for does not exist; [`Refusal::Conflict`] if the service asks for no
    /// keys.
    pub async fn create_client_token(
        &self,
        caller: &Caller,
        new: NewClientToken,
    ) -> Result<IssuedToken, Refusal> {
        let pepper = self.pepper()?;
        let seconds = new.seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
        if !TOKEN_SECONDS.contains(&seconds) {
            let detail = format!("expires_in_seconds is 1 to {}", TOKEN_SECONDS.end());
            return Err(FieldError::new("/expires_in_seconds", Code::OutOfRange, detail).into());
        }
        if let Some(origin) = &new.origin {
            check_origin(origin)?;
        }
        let bound = match (&new.concept, &new.job) {
            (Some(name), None) => {
                let found = self.find_concept(caller, name).await;
                let concept = unknown(found, "/concept", "concept", name)?;
                Bound::Concept(concept.concept_id)
            }
            (None, Some(id)) => {
                let found = self.bound_to_job(caller, id).await;
                unknown(found, "/job", "job", id)?
            }
            (None, None) | (Some(_), Some(_)) => {
                let detail = "a client token is good for one thing: name a `concept` or a `job`";
                return Err(FieldError::new("", Code::ConflictingFields, detail).into());
            }
        };
        let key = self.own_key(caller).await?;
        let key = key.ok_or_else(|| Refusal::unauthenticated("the key is gone"))?;
        let end = Utc::now() + TimeDelta::seconds(i64::try_from(seconds).unwrap_or(0));
        let expires_at = key.expires_at.map_or(end, |expires| expires.min(end));
        let token = ClientToken { public_id: key.public_id, bound, origin: new.origin, expires_at };
        let text = sign(pepper, &token)?;
        Ok(IssuedToken { text, bound, origin: token.origin, expires_at })
    }

    /// Makes a token for each of these images, with which its file can be read for an hour by a client that sends no key, such as an
    /// `img` of a page. `None` on a service that asks for no keys.
    pub async fn image_tokens(
        &self,
        caller: &Caller,
        images: &[ImageId],
    ) -> Result<Option<Vec<String>>, Refusal> {
        if caller.key_id().is_none() {
            return Ok(None);
        }
        let gone = || Refusal::unauthenticated("the key of this request is gone: send another one");
        let key = self.own_key(caller).await?.ok_or_else(gone)?;
        let pepper = self.pepper()?;
        let end = Utc::now() + IMAGE_TOKENS_LAST;
        let expires_at = key.expires_at.map_or(end, |expires| expires.min(end));
        let tokens = images.iter().map(|image| {
            let (public_id, bound) = (key.public_id.clone(), Bound::Image(*image));
            sign(pepper, &ClientToken { public_id, bound, origin: None, expires_at })
        });
        tokens.collect::<Result<_, _>>().map(Some)
    }

    /// Finds a job of whatever kind its id says.
    async fn bound_to_job(&self, caller: &Caller, id: &str) -> Result<Bound, Refusal> {
        let missing = || Refusal::not_found("job", id);
        macro_rules! try_kinds {
            ($($id:ident, $task:ident, $kind:ident;)*) => {
                $(if let Ok(id) = id.parse::<$id>() {
                    self.standing::<$task>(caller, id).await?;
                    return Ok(Bound::Job(JobKind::$kind, id.into()));
                })*
            };
        }
        try_kinds! {
            TrainingId, TrainingTask, Training;
            SampleId, SampleTask, Sample;
            MergeId, MergeTask, Merge;
            EvaluationId, EvaluationTask, Evaluation;
            CompressionId, CompressionTask, Compression;
        }
        Err(missing())
    }
}

/// What is not found is an error of the field that names it.
fn unknown<T>(
    found: Result<T, Refusal>,
    pointer: &str,
    what: &str,
    name: &str,
) -> Result<T, Refusal> {
    match found {
        Err(Refusal::NotFound { .. }) => {
            let name: String = name.chars().take(100).collect();
            let detail = format!("no {what} `{name}`: check its id");
            let code = if what == "concept" { Code::UnknownConcept } else { Code::InvalidValue };
            Err(FieldError::new(pointer, code, detail).into())
        }
        other => other,
    }
}

/// Refuses what no browser sends as the origin of a page.
fn check_origin(origin: &str) -> Result<(), FieldError> {
    let parsed = url::Url::parse(origin).ok().map(|url| url.origin().ascii_serialization());
    match parsed.as_deref() {
        Some(canonical) if canonical == origin && origin.starts_with("http") => Ok(()),
        Some(_) | None => {
            let detail = "an origin is a scheme, a host and a port other than the scheme's own, such as https://shop.example";
            Err(FieldError::new("/origin", Code::InvalidValue, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_do() {
        for good in ["https://shop.example", "http://localhost:3000"] {
            assert!(check_origin(good).is_ok(), "{good}");
        }
        for wrong in [
            "https://shop.example/",
            "https://Shop.example",
            "https://a.example:443",
            "null",
            "*",
            "",
        ] {
            assert!(check_origin(wrong).is_err(), "{wrong}");
        }
    }
}
