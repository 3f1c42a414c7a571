//! Projects: whose things are whose, what they may have and what they have.

use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::access::{Project, Quotas, Usage};
use crate::domain::code::Code;
use crate::domain::id::ProjectId;
use crate::domain::invalid::{Checks, FieldError};
use crate::domain::page::{Page, PageOf};

/// The longest name of a project or a key, in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// Changes of a project; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct ProjectChanges {
    pub name: Option<String>,
    /// `Some(None)` for no limit.
    pub max_concepts: Option<Option<i64>>,
    pub max_stored_bytes: Option<Option<i64>>,
    pub max_active_jobs: Option<Option<i64>>,
}

impl App {
    /// Creates a project. For administrators.
    ///
    /// # Errors
    /// [`Refusal::Invalid`]
    pub async fn create_project(
        &self,
        _caller: &Caller,
        name: String,
        quotas: Quotas,
    ) -> Result<Project, Refusal> {
        check(&name, &quotas)?;
        let project_id = ProjectId::generate();
        let mut tx = self.db.begin().await?;
        self.claim_key(&mut tx, project_id).await?;
        let project = db::project::create(&mut *tx, project_id, name.trim(), quotas).await?;
        tx.commit().await?;
        Ok(project)
    }

    /// Changes the name or the quotas of a project. For administrators. What a project has above a new quota stays.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Invalid`]
    pub async fn change_project(
        &self,
        _caller: &Caller,
        id: ProjectId,
        changes: ProjectChanges,
    ) -> Result<Project, Refusal> {
        let missing = || Refusal::not_found("project", id);
        let before = db::project::find(&self.db, id).await?.ok_or_else(missing)?;
        let name = changes.name.unwrap_or(before.name);
        let quotas = Quotas {
            max_concepts: changes.max_concepts.unwrap_or(before.quotas.max_concepts),
            max_stored_bytes: changes.max_stored_bytes.unwrap_or(before.quotas.max_stored_bytes),
            max_active_jobs: changes.max_active_jobs.unwrap_or(before.quotas.max_active_jobs),
        };
        check(&name, &quotas)?;
        db::project::update(&self.db, id, name.trim(), quotas).await?.ok_or_else(missing)
    }

    /// Returns a project. For administrators.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]
    pub async fn project(&self, _caller: &Caller, id: ProjectId) -> Result<Project, Refusal> {
        let found = db::project::find(&self.db, id).await?;
        found.ok_or_else(|| Refusal::not_found("project", id))
    }

    /// Lists projects, newest first. For administrators.
    pub async fn projects(&self, _caller: &Caller, page: Page) -> Result<PageOf<Project>, Refusal> {
        Ok(page.cut(db::project::list(&self.db, page.with_one_more()).await?))
    }

    /// The caller's own project, and what it has.
    pub async fn usage(&self, caller: &Caller) -> Result<(Project, Usage), Refusal> {
        let project_id = caller.project_id();
        let project = self.project(caller, project_id).await?;
        Ok((project, db::project::usage(&self.db, project_id).await?))
    }
}

fn check(name: &str, quotas: &Quotas) -> Result<(), Refusal> {
    let mut checks = Checks::default();
    if let Err(error) = check_name(name) {
        checks.push(error);
    }
    for (limit, pointer) in [
        (quotas.max_concepts, "/max_concepts"),
        (quotas.max_stored_bytes, "/max_stored_bytes"),
        (quotas.max_active_jobs, "/max_active_jobs"),
    ] {
        checks.require(limit.unwrap_or(0) >= 0, pointer, Code::OutOfRange, || {
            "a quota is 0 or more, or null for no limit".to_owned()
        });
    }
    Ok(checks.finish()?)
}

/// Refuses a name that nobody could read.
pub(super) fn check_name(name: &str) -> Result<(), FieldError> {
    let length = name.trim().chars().count();
    if (1..=MAX_NAME_CHARS).contains(&length) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let detail = format!("a name has 1 to {MAX_NAME_CHARS} characters, and no line breaks");
    Err(FieldError::new("/name", Code::InvalidValue, detail))
}
