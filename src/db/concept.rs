//! Table `concept`.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use super::{Page, record_of};
use crate::domain::concept::{ClassNoun, Concept, ConceptWords, Handle, ModifierToken};
use crate::domain::id::{ConceptId, DeltaId, ProjectId};
use crate::domain::page::Order;
use crate::domain::record::{ExternalId, Labels, Metadata};
use crate::domain::search::SearchText;

/// Constraint that a second concept of the same handle in a project breaks.
pub const HANDLE_IS_UNIQUE: &str = "concept_handle_is_unique";
/// Constraint that a second concept of the same modifier token in a project breaks.
pub const MODIFIER_TOKEN_IS_UNIQUE: &str = "concept_modifier_token_is_unique";

struct ConceptRow {
    concept_id: ConceptId,
    handle: Handle,
    modifier_token: Option<ModifierToken>,
    class_noun: ClassNoun,
    current_delta: Option<DeltaId>,
    created_at: DateTime<Utc>,
    revision: i64,
    updated_at: DateTime<Utc>,
    metadata: Json<Metadata>,
    external_id: Option<ExternalId>,
}

impl From<ConceptRow> for Concept {
    fn from(row: ConceptRow) -> Self {
        Self {
            concept_id: row.concept_id,
            handle: row.handle,
            words: ConceptWords { modifier_token: row.modifier_token, class_noun: row.class_noun },
            current_delta: row.current_delta,
            created_at: row.created_at,
            record: record_of(row.revision, row.updated_at, row.metadata, row.external_id),
        }
    }
}

/// Adds a concept that has no images and no delta yet.
pub async fn create(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    concept_id: ConceptId,
    handle: &Handle,
    words: &ConceptWords,
    labels: &Labels,
) -> sqlx::Result<Concept> {
    let row = sqlx::query_as!(
        ConceptRow,
        r#"
        insert into concept (concept_id, handle, modifier_token, class_noun, project_id, metadata, external_id)
        values ($1, $2, $3, $4, $5, $6, $7)
        returning concept_id as "concept_id: ConceptId", handle as "handle: Handle",
            modifier_token as "modifier_token: ModifierToken", class_noun as "class_noun: ClassNoun",
            current_delta_id as "current_delta: DeltaId", created_at, revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        "#,
        concept_id.0,
        handle.as_str(),
        words.modifier_token.as_ref().map(ModifierToken::as_str),
        words.class_noun.as_str(),
        project_id.0,
        Json(&labels.metadata) as Json<&Metadata>,
        labels.external_id.as_ref().map(ExternalId::as_str),
    )
    .fetch_one(db)
    .await?;
    Ok(row.into())
}

/// Finds concepts of a project by id, by handle or by modifier token, in no particular order.
pub async fn find(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    ids: &[ConceptId],
    handles: &[String],
    modifier_tokens: &[ModifierToken],
) -> sqlx::Result<Vec<Concept>> {
    let rows = sqlx::query_as!(
        ConceptRow,
        r#"
        select concept_id as "concept_id: ConceptId", handle as "handle: Handle",
            modifier_token as "modifier_token: ModifierToken", class_noun as "class_noun: ClassNoun",
            current_delta_id as "current_delta: DeltaId", created_at, revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from concept
        where project_id = $4 and (concept_id = any($1) or handle = any($2) or modifier_token = any($3))
        "#,
        &ids.iter().map(|id| id.0).collect::<Vec<_>>(),
        handles,
        &modifier_tokens.iter().map(|token| token.as_str().to_owned()).collect::<Vec<_>>(),
        project_id.0,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Concept::from).collect())
}

/// The most concepts that a prompt's words are compared with.
const MAX_NAMESAKES: i64 = 20;

/// Finds trained concepts of a project that have one of these names, in lower case, as their handle, as the word of their modifier token or
/// as their class noun; newest first.
pub async fn trained_of_names(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    names: &[String],
) -> sqlx::Result<Vec<Concept>> {
    let tokens: Vec<String> = names.iter().map(|name| format!("<{name}>")).collect();
    let rows = sqlx::query_as!(
        ConceptRow,
        r#"
        select concept_id as "concept_id: ConceptId", handle as "handle: Handle",
            modifier_token as "modifier_token: ModifierToken", class_noun as "class_noun: ClassNoun",
            current_delta_id as "current_delta: DeltaId", created_at, revision, updated_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
        from concept
        where project_id = $4 and current_delta_id is not null
            and (handle = any($1) or modifier_token = any($2) or lower(class_noun) = any($1))
        order by concept_id desc
        limit $3
        "#,
        names,
        &tokens,
        MAX_NAMESAKES,
        project_id.0,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Concept::from).collect())
}

/// Lists the concepts of a project: all, those whose names have these words, or the one with this external id.
pub async fn list(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    search: &SearchText,
    external_id: Option<&ExternalId>,
    page: Page,
) -> sqlx::Result<Vec<Concept>> {
    let words = search.patterns();
    macro_rules! listed {
        ($filter:tt, $names:tt, $direction:tt) => {
            sqlx::query_as!(
                ConceptRow,
                r#"
                select concept_id as "concept_id: ConceptId", handle as "handle: Handle",
                    modifier_token as "modifier_token: ModifierToken", class_noun as "class_noun: ClassNoun",
                    current_delta_id as "current_delta: DeltaId", created_at, revision, updated_at,
                    metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId"
                from concept
                where project_id = $1 and concept_id > $2 and concept_id < $3 and created_at > $4 and created_at < $5
                    and "# + $filter + " and " + $names + " order by concept_id " + $direction + " limit $7",
                project_id.0,
                page.above(),
                page.below(),
                page.created_after(),
                page.created_before(),
                external_id.map(ExternalId::as_str),
                page.limit,
                &words,
            )
            .fetch_all(db)
            .await?
        };
        ($filter:tt, $direction:tt) => {
            listed!($filter, "concat_ws(' ', handle, modifier_token, lower(class_noun)) like all($8)", $direction)
        };
    }
    let rows = match (external_id, words.as_slice(), page.order) {
        (Some(_), _, Order::Desc) => listed!("external_id = $6", "desc"),
        (Some(_), _, Order::Asc) => listed!("external_id = $6", "asc"),
        (None, [_, ..], Order::Desc) => listed!("$6::text is null", "desc"),
        (None, [_, ..], Order::Asc) => listed!("$6::text is null", "asc"),
        (None, [], Order::Desc) => listed!("$6::text is null", "$8::text[] = '{}'", "desc"),
        (None, [], Order::Asc) => listed!("$6::text is null", "$8::text[] = '{}'", "asc"),
    };
    Ok(rows.into_iter().map(Concept::from).collect())
}

/// Gives a concept another handle.
pub async fn rename(
    db: impl PgExecutor<'_>,
    concept_id: ConceptId,
    handle: &Handle,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update concept set handle = $2 where concept_id = $1",
        concept_id.0,
        handle.as_str(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Locks a concept until the transaction ends, so that two uploads cannot both take its last place for a photo.
pub async fn lock(db: impl PgExecutor<'_>, concept_id: ConceptId) -> sqlx::Result<bool> {
    let found = sqlx::query!(
        "select concept_id from concept where concept_id = $1 for update",
        concept_id.0
    )
    .fetch_optional(db)
    .await?;
    Ok(found.is_some())
}
