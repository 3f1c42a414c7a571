//! The sender of a request.

use crate::domain::id::ProjectId;

/// The sender of a request. A verb shows and changes only what belongs to its caller's project.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    project_id: ProjectId,
}

impl Caller {
    /// A caller without a key, on a service that asks for none.
    pub fn anonymous() -> Self {
        Self { project_id: ProjectId::DEFAULT }
    }

    /// Whose concepts, images and jobs the caller works with.
    pub fn project_id(&self) -> ProjectId {
        self.project_id
    }
}
