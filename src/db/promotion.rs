//! Table `promotion`: which delta was the current one of a concept, and since when.
//!
//! The schema adds a row whenever a concept gets another current delta. A roll-back marks the newest row, after which the one
//! before it counts again.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::Page;
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::page::Order;
use crate::domain::promotion::{Promoter, Promotion};

struct PromotionRow {
    promotion_id: i64,
    delta_id: DeltaId,
    promoted_by: Promoter,
    promoted_at: DateTime<Utc>,
    rolled_back_at: Option<DateTime<Utc>>,
}

impl From<PromotionRow> for Promotion {
    fn from(row: PromotionRow) -> Self {
        let PromotionRow { promotion_id, delta_id, promoted_by, promoted_at, rolled_back_at } = row;
        Self { number: promotion_id, delta_id, promoted_by, promoted_at, rolled_back_at }
    }
}

/// Makes a delta the current one of these concepts.
///
/// - `only_first`: leaves concepts alone that have a current delta
pub async fn promote(
    db: impl PgExecutor<'_>,
    concepts: &[ConceptId],
    delta_id: DeltaId,
    promoter: Promoter,
    only_first: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update concept set current_delta_id = $2, promoted_by = $3
        where concept_id = any($1) and current_delta_id is distinct from $2
            and (not $4 or current_delta_id is null)",
        &concepts.iter().map(|id| id.0).collect::<Vec<_>>(),
        delta_id.0,
        promoter as Promoter,
        only_first,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The promotions of a concept that count, newest first, up to two of them: that of the current delta, and the one to go back
/// to.
pub async fn newest_two(
    db: impl PgExecutor<'_>,
    concept_id: ConceptId,
) -> sqlx::Result<Vec<Promotion>> {
    let rows = sqlx::query_as!(
        PromotionRow,
        r#"
        select promotion_id, delta_id as "delta_id: DeltaId", promoted_by as "promoted_by: Promoter", promoted_at,
            rolled_back_at
        from promotion where concept_id = $1 and rolled_back_at is null
        order by promotion_id desc limit 2
        "#,
        concept_id.0,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Promotion::from).collect())
}

/// Marks a promotion as rolled back.
pub async fn mark_rolled_back(db: impl PgExecutor<'_>, number: i64) -> sqlx::Result<()> {
    sqlx::query!("update promotion set rolled_back_at = now() where promotion_id = $1", number)
        .execute(db)
        .await?;
    Ok(())
}

/// Makes the delta of an earlier promotion the current one again. That is no new promotion.
pub async fn go_back_to(
    db: impl PgExecutor<'_>,
    concept_id: ConceptId,
    delta_id: DeltaId,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update concept set current_delta_id = $2, promoted_by = 'rollback' where concept_id = $1",
        concept_id.0,
        delta_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Takes these deltas from the concepts that have one of them as their current one: then the newest other promotion counts, or
/// none. Returns the concepts.
pub async fn retire(
    db: impl PgExecutor<'_>,
    deltas: &[DeltaId],
) -> sqlx::Result<Vec<(ConceptId, Option<DeltaId>)>> {
    let rows = sqlx::query!(
        r#"
        update concept
        set promoted_by = 'rollback', current_delta_id = (
            select delta_id from promotion
            where promotion.concept_id = concept.concept_id and rolled_back_at is null and delta_id <> all($1)
            order by promotion_id desc limit 1
        )
        where current_delta_id = any($1)
        returning concept_id as "concept_id: ConceptId", current_delta_id as "current_delta: DeltaId"
        "#,
        &deltas.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.concept_id, row.current_delta)).collect())
}

/// Lists the promotions of a concept. Their numbers take the place of ids.
pub async fn list(
    db: impl PgExecutor<'_>,
    concept_id: ConceptId,
    page: Page,
) -> sqlx::Result<Vec<Promotion>> {
    let number = |bound: uuid::Uuid| i64::try_from(bound.as_u128()).unwrap_or(i64::MAX);
    let rows = sqlx::query_as!(
        PromotionRow,
        r#"
        select promotion_id, delta_id as "delta_id: DeltaId", promoted_by as "promoted_by: Promoter", promoted_at,
            rolled_back_at
        from promotion where concept_id = $1 and promotion_id > $2 and promotion_id < $3
        order by case when $5 then promotion_id else -promotion_id end
        limit $4
        "#,
        concept_id.0,
        number(page.above()),
        number(page.below()),
        page.limit,
        page.order == Order::Asc,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Promotion::from).collect())
}
