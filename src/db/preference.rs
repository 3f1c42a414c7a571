//! Tables `preference_study`, `preference_link` and `preference_vote`.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use super::{Page, record_of};
use crate::domain::id::{ProjectId, StudyId};
use crate::domain::page::Order;
use crate::domain::preference::{Choice, Criterion, StudyDefinition};
use crate::domain::record::{ExternalId, Labels, Metadata, Record};

/// A study as the catalog has it.
#[derive(Clone, Debug)]
pub struct StudyRow {
    pub study_id: StudyId,
    pub definition: StudyDefinition,
    pub created_at: DateTime<Utc>,
    pub record: Record,
}

struct Row {
    study_id: StudyId,
    definition: Json<StudyDefinition>,
    created_at: DateTime<Utc>,
    revision: i64,
    updated_at: DateTime<Utc>,
    metadata: Json<Metadata>,
    external_id: Option<ExternalId>,
}

impl From<Row> for StudyRow {
    fn from(row: Row) -> Self {
        Self {
            study_id: row.study_id,
            definition: row.definition.0,
            created_at: row.created_at,
            record: record_of(row.revision, row.updated_at, row.metadata, row.external_id),
        }
    }
}

/// Records a study.
pub async fn create(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    study_id: StudyId,
    definition: &StudyDefinition,
    labels: &Labels,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into preference_study (study_id, definition, project_id, metadata, external_id)
        values ($1, $2, $3, $4, $5)",
        study_id.0,
        Json(definition) as Json<&StudyDefinition>,
        project_id.0,
        Json(&labels.metadata) as Json<&Metadata>,
        labels.external_id.as_ref().map(ExternalId::as_str),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Records links to a study.
pub async fn add_links(
    db: impl PgExecutor<'_>,
    study_id: StudyId,
    tokens: &[String],
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into preference_link (token, study_id) select token, $1 from unnest($2::text[]) as given (token)",
        study_id.0,
        tokens,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Returns one study of a project.
pub async fn find(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    study_id: StudyId,
) -> sqlx::Result<Option<StudyRow>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select study_id as "study_id: StudyId", definition as "definition: Json<StudyDefinition>", created_at, revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from preference_study where study_id = $1 and project_id = $2
        "#,
        study_id.0,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(StudyRow::from))
}

/// Returns the study that a link leads to.
pub async fn find_by_token(db: impl PgExecutor<'_>, token: &str) -> sqlx::Result<Option<StudyRow>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select study_id as "study_id: StudyId", definition as "definition: Json<StudyDefinition>",
            preference_study.created_at, revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from preference_link join preference_study using (study_id) where token = $1
        "#,
        token,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(StudyRow::from))
}

/// Returns the project of the study that a link leads to.
pub async fn project_of_link(
    db: impl PgExecutor<'_>,
    token: &str,
) -> sqlx::Result<Option<ProjectId>> {
    sqlx::query_scalar!(
        r#"
        select project_id as "project_id: ProjectId" from preference_link join preference_study using (study_id)
        where token = $1
        "#,
        token,
    )
    .fetch_optional(db)
    .await
}

/// Lists the studies of a project: all, or the one with this external id.
pub async fn list(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    external_id: Option<&ExternalId>,
    page: Page,
) -> sqlx::Result<Vec<StudyRow>> {
    macro_rules! listed {
        ($filter:tt, $direction:tt) => {
            sqlx::query_as!(
                Row,
                r#"
                select study_id as "study_id: StudyId", definition as "definition: Json<StudyDefinition>", created_at,
                    revision, updated_at, metadata as "metadata: Json<Metadata>",
                    external_id as "external_id: ExternalId"
                from preference_study
                where project_id = $1 and study_id > $2 and study_id < $3 and created_at > $4 and created_at < $5
                    and "# + $filter + " order by study_id " + $direction + " limit $7",
                project_id.0,
                page.above(),
                page.below(),
                page.created_after(),
                page.created_before(),
                external_id.map(ExternalId::as_str),
                page.limit,
            )
            .fetch_all(db)
            .await?
        };
    }
    let rows = match (external_id, page.order) {
        (Some(_), Order::Desc) => listed!("external_id = $6", "desc"),
        (Some(_), Order::Asc) => listed!("external_id = $6", "asc"),
        (None, Order::Desc) => listed!("$6::text is null", "desc"),
        (None, Order::Asc) => listed!("$6::text is null", "asc"),
    };
    Ok(rows.into_iter().map(StudyRow::from).collect())
}

/// Lists the tokens of a study's links.
pub async fn links_of(db: impl PgExecutor<'_>, study_id: StudyId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "select token from preference_link where study_id = $1 order by created_at, token",
        study_id.0,
    )
    .fetch_all(db)
    .await
}

/// Lists the pairs on which a link has voted for every criterion.
pub async fn voted_pairs(db: impl PgExecutor<'_>, token: &str) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar!(
        "select pair from preference_vote where token = $1 group by pair having count(*) = 2 order by pair",
        token,
    )
    .fetch_all(db)
    .await
}

/// Records a vote. The first one of a link on a pair counts; later ones change nothing.
pub async fn vote(
    db: impl PgExecutor<'_>,
    token: &str,
    pair: i32,
    criterion: Criterion,
    choice: Choice,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into preference_vote (token, pair, criterion, choice) values ($1, $2, $3, $4) on conflict do nothing",
        token,
        pair,
        criterion.as_str(),
        choice.as_str(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Counts the votes of a study, by criterion and choice.
pub async fn count_votes(
    db: impl PgExecutor<'_>,
    study_id: StudyId,
) -> sqlx::Result<Vec<(Criterion, Choice, i64)>> {
    let rows = sqlx::query!(
        r#"
        select criterion as "criterion: Criterion", choice as "choice: Choice", count(*) as "count!"
        from preference_vote join preference_link using (token)
        where study_id = $1
        group by criterion, choice
        "#,
        study_id.0,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.criterion, row.choice, row.count)).collect())
}
