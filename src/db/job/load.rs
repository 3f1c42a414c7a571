//! How much there is to do, kind by kind.

use sqlx::PgExecutor;

use crate::domain::job::JobKind;

/// The jobs of one kind that have not ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    pub kind: JobKind,
    pub queued: i64,
    pub running: i64,
    /// How long ago the oldest queued job was made, in seconds.
    pub oldest_seconds: f64,
}

/// Returns the load of each kind that has jobs; the others have none.
pub async fn loads(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Load>> {
    sqlx::query_as!(
        Load,
        r#"
        select kind as "kind!: JobKind", sum(queued)::bigint as "queued!", sum(running)::bigint as "running!",
            max(oldest_seconds) as "oldest_seconds!"
        from (
            select kind, count(*) as queued, 0 as running,
                greatest(0, extract(epoch from now() - min(created_at)))::float8 as oldest_seconds
            from job where state = 'queued' group by kind
            union all
            select kind, 0, count(*), 0 from job where state = 'running' group by kind
        ) as counted
        group by kind
        "#
    )
    .fetch_all(db)
    .await
}
