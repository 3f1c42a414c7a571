//! Who asks.

/// Who sends a request.
///
/// Every request may do everything today. Every verb takes its caller all the same, so that projects and scopes become
/// fields here and rules in the verbs, without another look at every signature.
#[derive(Clone, Copy, Debug)]
pub struct Caller(());

impl Caller {
    /// A caller of whom nothing is known.
    pub fn anonymous() -> Self {
        Self(())
    }
}
