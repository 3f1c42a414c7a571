//! The audit log: who has changed what.

use chrono::Utc;

use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::access::AuditEntry;
use crate::domain::id::{AuditId, ProjectId};
use crate::domain::page::{Page, PageOf};

impl App {
    /// Records a change that has been made. If it cannot be recorded, the change stays, and the log of the process says so.
    ///
    /// - `operation`: the method and the pattern of the path
    /// - `object`: the path of what was changed or made
    pub async fn record_change(
        &self,
        caller: &Caller,
        operation: String,
        object: String,
        status: u16,
        request_id: String,
    ) {
        let entry = AuditEntry {
            audit_id: AuditId::generate(),
            project_id: caller.project_id(),
            key_id: caller.key_id(),
            operation,
            object,
            status: i32::from(status),
            request_id,
            created_at: Utc::now(),
        };
        if let Err(error) = db::audit::record(&self.db, &entry).await {
            tracing::error!(%error, ?entry, "a change is not in the audit log");
        }
    }

    /// Lists changes, newest first: of one project, or of all. For administrators.
    pub async fn changes(
        &self,
        _caller: &Caller,
        project_id: Option<ProjectId>,
        page: Page,
    ) -> Result<PageOf<AuditEntry>, Refusal> {
        Ok(page.cut(db::audit::list(&self.db, project_id, page.with_one_more()).await?))
    }
}
