//! Client tokens: what a browser gets instead of a key. They are good for minutes and for one thing.
//!
//! A token is signed and stored nowhere. It dies with the key that it was made with.

use chrono::{DateTime, Utc};
use data_encoding::BASE64URL_NOPAD;
use hmac::Mac;
use serde::{Deserialize, Serialize};

use super::Pepper;
use crate::app::Refusal;
use crate::domain::access::Bound;
use crate::domain::code::Code;
use crate::domain::id::{ConceptId, ImageId, JobId};
use crate::domain::job::JobKind;

const PREFIX: &str = "vstarct_";
const PURPOSE: &str = "client token";

/// What a client token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::app) struct ClientToken {
    /// Of the key that it was made with.
    pub(in crate::app) public_id: String,
    pub(in crate::app) bound: Bound,
    /// The origin of the page that may use it; `None` for any.
    pub(in crate::app) origin: Option<String>,
    pub(in crate::app) expires_at: DateTime<Utc>,
}

/// A token as it is signed.
#[derive(Serialize, Deserialize)]
struct Claims {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concept: Option<ConceptId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<(JobKind, JobId)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<ImageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    /// Seconds since 1970.
    exp: i64,
}

impl ClientToken {
    /// Refuses another page than the one that the token was made for.
    pub(super) fn check_origin(&self, origin: Option<&str>) -> Result<(), Refusal> {
        match &self.origin {
            Some(allowed) if origin != Some(allowed.as_str()) => Err(Refusal::Forbidden {
                code: Code::OriginNotAllowed,
                detail: "the token was made for pages of another origin: make one for this origin"
                    .to_owned(),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

/// The text of a token.
pub(in crate::app) fn sign(pepper: &Pepper, token: &ClientToken) -> Result<String, Refusal> {
    let (concept, job, image) = match token.bound {
        Bound::Concept(concept) => (Some(concept), None, None),
        Bound::Job(kind, job) => (None, Some((kind, job)), None),
        Bound::Image(image) => (None, None, Some(image)),
    };
    let (key, origin) = (token.public_id.clone(), token.origin.clone());
    let claims = Claims { key, concept, job, image, origin, exp: token.expires_at.timestamp() };
    let claims = serde_json::to_vec(&claims).map_err(Refusal::internal)?;
    let mac = pepper.mac(PURPOSE, &claims).finalize().into_bytes();
    Ok(format!("{PREFIX}{}.{}", BASE64URL_NOPAD.encode(&claims), BASE64URL_NOPAD.encode(&mac)))
}

/// Reads a token that this service has signed and that has not expired.
pub(super) fn verify(pepper: &Pepper, text: &str) -> Result<ClientToken, Refusal> {
    let invalid = || Refusal::unauthenticated("the client token is not valid: make another one");
    let parts = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.'));
    let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).ok();
    let parts = parts.and_then(|(claims, mac)| Some((decode(claims)?, decode(mac)?)));
    let (claims, mac) = parts.ok_or_else(invalid)?;
    pepper.mac(PURPOSE, &claims).verify_slice(&mac).map_err(|_| invalid())?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| invalid())?;
    let bound = match (claims.concept, claims.job, claims.image) {
        (Some(concept), None, None) => Bound::Concept(concept),
        (None, Some((kind, job)), None) => Bound::Job(kind, job),
        (None, None, Some(image)) => Bound::Image(image),
        _ => return Err(invalid()),
    };
    let expires_at = DateTime::from_timestamp(claims.exp, 0).ok_or_else(invalid)?;
    if expires_at <= Utc::now() {
        return Err(Refusal::unauthenticated("the client token has expired: make another one"));
    }
    Ok(ClientToken { public_id: claims.key, bound, origin: claims.origin, expires_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(expires_in_seconds: i64) -> ClientToken {
        ClientToken {
            public_id: "abcd1234".to_owned(),
            bound: Bound::Concept(ConceptId::generate()),
            origin: Some("https://shop.example".to_owned()),
            expires_at: DateTime::from_timestamp(Utc::now().timestamp() + expires_in_seconds, 0)
                .unwrap(),
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_signed_and_not_otherwise() {
        let pepper = Pepper::generate().unwrap();
        let token = token(60);

        let text = sign(&pepper, &token).unwrap();

        assert_eq!(verify(&pepper, &text).unwrap(), token);
        let of_image = ClientToken { bound: Bound::Image(ImageId::generate()), ..token.clone() };
        assert_eq!(verify(&pepper, &sign(&pepper, &of_image).unwrap()).unwrap(), of_image);
        assert!(verify(&Pepper::generate().unwrap(), &text).is_err());
        let mut changed = text.clone().into_bytes();
        changed[20] ^= 1;
        assert!(verify(&pepper, &String::from_utf8(changed).unwrap()).is_err());
        for wrong in ["", "vstarct_", "vstarct_.", "vstarct_a.b", &text[..text.len() - 1]] {
            assert!(verify(&pepper, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_expired_token_and_another_origin_are_refused() {
        let pepper = Pepper::generate().unwrap();

        assert!(verify(&pepper, &sign(&pepper, &token(-1)).unwrap()).is_err());
        assert!(token(60).check_origin(Some("https://shop.example")).is_ok());
        assert!(token(60).check_origin(Some("https://other.example")).is_err());
        assert!(token(60).check_origin(None).is_err());
    }
}
