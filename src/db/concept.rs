//! Table `concept`.

use sqlx::PgExecutor;

use super::Page;
use crate::domain::concept::{ClassNoun, Concept, Handle, ModifierToken};
use crate::domain::id::{ConceptId, DeltaId};

/// Constraint that a second concept of the same handle breaks.
pub const HANDLE_IS_UNIQUE: &str = "concept_handle_is_unique";
/// Constraint that a second concept of the same modifier token breaks.
pub const MODIFIER_TOKEN_IS_UNIQUE: &str = "concept_modifier_token_is_unique";

/// Adds a concept that has no images and no delta yet.
pub async fn create(
    db: impl PgExecutor<'_>,
    concept_id: ConceptId,
    handle: &Handle,
    modifier_token: Option<&ModifierToken>,
    class_noun: &ClassNoun,
) -> sqlx::Result<Concept> {
    sqlx::query_as!(
        Concept,
        r#"
        insert into concept (concept_id, handle, modifier_token, class_noun) values ($1, $2, $3, $4)
        returning concept_id as "concept_id: ConceptId", handle as "handle: Handle",
            modifier_token as "modifier_token: ModifierToken", class_noun as "class_noun: ClassNoun",
            current_delta_id as "current_delta: DeltaId", created_at, updated_at
        "#,
        concept_id.0,
        handle.as_str(),
        modifier_token.map(ModifierToken::as_str),
        class_noun.as_str(),
    )
    .fetch_one(db)
    .await
}

/// Finds concepts by id, by handle or by modifier token, in no particular order.
pub async fn find(
    db: impl PgExecutor<'_>,
    ids: &[ConceptId],
    handles: &[String],
    modifier_tokens: &[ModifierToken],
) -> sqlx::Result<Vec<Concept>> {
    sqlx::query_as!(
        Concept,
        r#"
        select concept_id as "concept_id: ConceptId", handle as "handle: Handle",
            modifier_token as "modifier_token: ModifierToken", class_noun as "class_noun: ClassNoun",
            current_delta_id as "current_delta: DeltaId", created_at, updated_at
        from concept
        where concept_id = any($1) or handle = any($2) or modifier_token = any($3)
        "#,
        &ids.iter().map(|id| id.0).collect::<Vec<_>>(),
        handles,
        &modifier_tokens.iter().map(|token| token.as_str().to_owned()).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await
}

/// Lists concepts, newest first.
pub async fn list(db: impl PgExecutor<'_>, page: Page) -> sqlx::Result<Vec<Concept>> {
    sqlx::query_as!(
        Concept,
        r#"
        select concept_id as "concept_id: ConceptId", handle as "handle: Handle",
            modifier_token as "modifier_token: ModifierToken", class_noun as "class_noun: ClassNoun",
            current_delta_id as "current_delta: DeltaId", created_at, updated_at
        from concept
        where $1::uuid is null or concept_id < $1
        order by concept_id desc
        limit $2
        "#,
        page.before,
        page.limit,
    )
    .fetch_all(db)
    .await
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

/// Makes a delta the one that prompts get which name these concepts.
pub async fn set_current_delta(
    db: impl PgExecutor<'_>,
    concepts: &[ConceptId],
    delta_id: DeltaId,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update concept set current_delta_id = $2, updated_at = now() where concept_id = any($1)",
        &concepts.iter().map(|id| id.0).collect::<Vec<_>>(),
        delta_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}
