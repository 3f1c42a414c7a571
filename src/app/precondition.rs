//! Which state of a resource a request may change: the rule behind `If-Match`.

use super::Refusal;

/// The revisions of a resource that a request was made for.
///
/// A verb that changes a resource reads its revision under a lock, in the transaction of the change, and calls
/// [`Precondition::check`]. Of several requests with one revision, the first wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Any that the resource may have now.
    #[default]
    Any,
    /// One of these.
    OneOf(Vec<i64>),
}

impl Precondition {
    /// Checks the revision that the resource has now.
    ///
    /// # Errors
    /// [`Refusal::PreconditionFailed`] if the request was made for another one.
    pub fn check(&self, revision: i64) -> Result<(), Refusal> {
        match self {
            Self::Any => Ok(()),
            Self::OneOf(revisions) if revisions.contains(&revision) => Ok(()),
            Self::OneOf(_) => Err(Refusal::PreconditionFailed { revision }),
        }
    }
}
