//! Who may do what: keys, their scopes, and what a project may have.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::id::{ApiKeyId, ConceptId, ImageId, ProjectId};

/// What a key may do. Whatever it does, it does to its own project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum Scope {
    /// Read everything but weights.
    #[serde(rename = "read")]
    Read,
    /// Create and change concepts, photos and image sets.
    #[serde(rename = "concepts:write")]
    ConceptsWrite,
    /// Start and cancel trainings, merges and compressions, and delete what they have made.
    #[serde(rename = "trainings:write")]
    TrainingsWrite,
    /// Start and cancel samples, evaluations and preference studies.
    #[serde(rename = "samples:write")]
    SamplesWrite,
    /// Download the weights of deltas.
    #[serde(rename = "weights:read")]
    WeightsRead,
    /// Manage the receivers of webhooks.
    #[serde(rename = "webhooks:write")]
    WebhooksWrite,
    /// Manage projects and keys of the whole service, and read its audit log.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::ConceptsWrite,
        Self::TrainingsWrite,
        Self::SamplesWrite,
        Self::WeightsRead,
        Self::WebhooksWrite,
        Self::Admin,
    ];

    /// The scope as it is published and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ConceptsWrite => "concepts:write",
            Self::TrainingsWrite => "trainings:write",
            Self::SamplesWrite => "samples:write",
            Self::WeightsRead => "weights:read",
            Self::WebhooksWrite => "webhooks:write",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Everything.
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Whether the set has this scope.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// What both sets have.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The scopes of the set, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }

    /// The names of the scopes.
    pub fn names(self) -> Vec<String> {
        self.iter().map(|scope| scope.as_str().to_owned()).collect()
    }

    /// The scopes of these names; a name that a newer version of the program has stored is left out.
    pub fn from_names(names: &[String]) -> Self {
        Scope::ALL
            .into_iter()
            .filter(|scope| names.iter().any(|name| name == scope.as_str()))
            .collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

/// How many characters of a key say which key it is.
pub const PUBLIC_ID_LENGTH: usize = 8;
/// How many characters of a key are secret: 256 bits.
pub const SECRET_LENGTH: usize = 43;
/// What every key begins with.
const KEY_PREFIX: &str = "vstar_";

/// A key as its holder has it: `vstar_`, eight characters that say which key it is, `_`, and 43 secret ones.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText {
    /// Which key it is.
    pub public_id: String,
    /// What proves it. It is stored nowhere.
    pub secret: String,
}

impl KeyText {
    /// The whole key, for its holder alone.
    pub fn reveal(&self) -> String {
        format!("{KEY_PREFIX}{}_{}", self.public_id, self.secret)
    }
}

// A secret is in no log line, not even by accident.
impl std::fmt::Debug for KeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{KEY_PREFIX}{}_…", self.public_id)
    }
}

/// The part of a key that is no secret, as lists show it.
pub fn shown_prefix(public_id: &str) -> String {
    format!("{KEY_PREFIX}{public_id}")
}

/// A text that is not a key.
#[derive(Debug, thiserror::Error)]
#[error("not a key")]
pub struct NotAKey;

impl FromStr for KeyText {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let rest = text.strip_prefix(KEY_PREFIX).ok_or(NotAKey)?;
        let (public_id, secret) = rest.split_once('_').ok_or(NotAKey)?;
        let is = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        match is(public_id, PUBLIC_ID_LENGTH) && is(secret, SECRET_LENGTH) {
            true => Ok(Self { public_id: public_id.to_owned(), secret: secret.to_owned() }),
            false => Err(NotAKey),
        }
    }
}

/// A key of the API, without its secret.
#[derive(Clone, Debug)]
pub struct ApiKey {
    pub key_id: ApiKeyId,
    /// Whose things it works with.
    pub project_id: ProjectId,
    /// The part of the key that is no secret.
    pub public_id: String,
    pub name: String,
    pub scopes: Scopes,
    /// `None` for never.
    pub expires_at: Option<DateTime<Utc>>,
    /// To the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Until when the secret before the last rotation is good as well.
    pub previous_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// A project: whose concepts, images and jobs are whose.
#[derive(Clone, Debug)]
pub struct Project {
    pub project_id: ProjectId,
    pub name: String,
    pub quotas: Quotas,
    pub created_at: DateTime<Utc>,
}

/// What a project may have at most; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    pub max_concepts: Option<i64>,
    /// Bytes of photos, images, image sets and deltas together.
    pub max_stored_bytes: Option<i64>,
    /// Jobs that wait or run.
    pub max_active_jobs: Option<i64>,
}

/// What a project has, counted from what exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub concepts: i64,
    pub images: i64,
    pub image_sets: i64,
    pub deltas: i64,
    /// Bytes of photos, images, image sets and deltas together.
    pub stored_bytes: i64,
    pub queued_jobs: i64,
    pub running_jobs: i64,
}

/// What a client token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A concept and its photos.
    Concept(ConceptId),
    /// A job and its stream of events.
    Job(super::job::JobKind, super::id::JobId),
    /// The file of an image.
    Image(ImageId),
}

/// A change that somebody has made.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    pub audit_id: super::id::AuditId,
    pub project_id: ProjectId,
    /// The key that made it; `None` on a service that asks for none.
    pub key_id: Option<ApiKeyId>,
    /// The method and the pattern of the path, such as `POST /v1/concepts`.
    pub operation: String,
    /// The path of what was changed or made.
    pub object: String,
    /// The HTTP status of the answer.
    pub status: i32,
    pub request_id: String,
    pub created_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_exactly() {
        let key = format!("vstar_abcDEF12_{}", "x".repeat(SECRET_LENGTH));

        assert_eq!(key.parse::<KeyText>().unwrap().reveal(), key);
        for wrong in [
            key.to_uppercase(),
            format!("{key}x"),
            format!(" {key}"),
            key.replace("abcDEF12", "abcDEF1é"),
            "vstar_".to_owned(),
            String::new(),
        ] {
            assert!(wrong.parse::<KeyText>().is_err(), "{wrong}");
        }
        assert!(!format!("{:?}", key.parse::<KeyText>().unwrap()).contains("xxx"));
    }

    #[test]
    fn a_set_has_the_scopes_of_its_names() {
        let names = ["read".to_owned(), "admin".to_owned(), "of-a-later-version".to_owned()];

        let scopes = Scopes::from_names(&names);

        assert_eq!(scopes.names(), ["read", "admin"]);
        assert!(scopes.contains(Scope::Admin) && !scopes.contains(Scope::WeightsRead));
        assert_eq!(Scopes::all().iter().count(), Scope::ALL.len());
    }
}
