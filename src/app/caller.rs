//! The sender of a request.

use crate::domain::access::{ApiKey, Bound, Scope, Scopes};
use crate::domain::id::{ApiKeyId, ProjectId};

/// The sender of a request. A verb shows and changes only what belongs to its caller's project.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    project_id: ProjectId,
    key_id: Option<ApiKeyId>,
    scopes: Scopes,
    bound: Option<Bound>,
}

impl Caller {
    /// A caller without a key, on a service that asks for none. It may do everything.
    pub fn anonymous() -> Self {
        Self { project_id: ProjectId::DEFAULT, key_id: None, scopes: Scopes::all(), bound: None }
    }

    /// The holder of a key.
    pub(super) fn with_key(key: &ApiKey) -> Self {
        let (project_id, key_id) = (key.project_id, Some(key.key_id));
        Self { project_id, key_id, scopes: key.scopes, bound: None }
    }

    /// The holder of a client token that was made with a key.
    pub(super) fn with_token(key: &ApiKey, bound: Bound) -> Self {
        let most = match bound {
            Bound::Concept(_) => [Scope::Read, Scope::ConceptsWrite].into_iter().collect(),
            Bound::Job(..) => [Scope::Read].into_iter().collect(),
            // Whoever made the image has been given the token to see it, whatever else the key may read.
            Bound::Image(_) => {
                return Self {
                    scopes: [Scope::Read].into_iter().collect(),
                    bound: Some(bound),
                    ..Self::with_key(key)
                };
            }
        };
        Self { scopes: key.scopes.and(most), bound: Some(bound), ..Self::with_key(key) }
    }

    /// Whose concepts, images and jobs the caller works with.
    pub fn project_id(&self) -> ProjectId {
        self.project_id
    }

    /// The key that the caller has, or that its client token was made with.
    pub fn key_id(&self) -> Option<ApiKeyId> {
        self.key_id
    }

    /// What the caller may do.
    pub fn scopes(&self) -> Scopes {
        self.scopes
    }

    /// What a client token is good for; `None` for the holder of a key.
    pub fn bound(&self) -> Option<Bound> {
        self.bound
    }
}
