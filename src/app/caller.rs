//! The sender of a request.

/// The sender of a request.
///
/// Today every request may do everything. Every verb takes its caller all the same: projects and scopes will be fields
/// here and rules in the verbs, without a change of signatures.
#[derive(Clone, Copy, Debug)]
pub struct Caller(());

impl Caller {
    /// A caller about whom nothing is known.
    pub fn anonymous() -> Self {
        Self(())
    }
}
