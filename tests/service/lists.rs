//! Lists read the rows of their page, wherever it is and whatever plan the database has made.

use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;
use vstar::db::delta::DeltaFilter;
use vstar::db::job::JobFilter;
use vstar::db::{self, Page};
use vstar::domain::id::{ConceptId, ProjectId};
use vstar::domain::job::{JobKind, JobStatus};
use vstar::domain::page::Order;
use vstar::domain::record::ExternalId;
use vstar::domain::search::SearchText;

/// Rows of each table.
const ROWS: i64 = 10_000;

/// A UUID that stands at this place among all.
fn id(place: i64) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + place as u128)
}

/// A catalog of concepts, each with a job and its delta; the one at 77 has two more, an old one and a new one.
async fn fill(db: &PgPool) {
    let uuid = |place: &str| {
        format!("('01900000-0000-7000-8000-' || lpad(to_hex({place}), 12, '0'))::uuid")
    };
    let (i, concept) = (uuid("i"), uuid("case when i in (5, 9999) then 77 else i end"));
    let statements = format!(
        "insert into concept (concept_id, handle, class_noun, external_id)
            select {i}, 'c' || i, 'dog', 'concept ' || i from generate_series(0, {ROWS} - 1) i;
        insert into job (job_id, kind, task, state, finished_at, external_id, sample_prompt, sample_seed)
            select {i}, 'merge', '{{\"kind\": \"merge\", \"base_digest\": \"b\", \"deltas\": [], \"concepts\": []}}',
                case when i % 1000 = 5 then 'canceled' else 'succeeded' end, now(), 'job ' || i, 'a dog at ' || i, i % 5000
            from generate_series(0, {ROWS} - 1) i;
        insert into job_use (used, kind, job_id) select {concept}, 'merge', {i} from generate_series(0, {ROWS} - 1) i;
        insert into delta (delta_id, job_id, base_digest, storage_key, size_bytes, sha256, external_id)
            select {i}, {i}, 'b', 'k' || i, 1, 's' || i, 'delta ' || i from generate_series(0, {ROWS} - 1) i;
        insert into delta_concept (delta_id, concept_id, position)
            select {i}, {concept}, 1 from generate_series(0, {ROWS} - 1) i;
        insert into image_set (image_set_id, name, source, digest, size_bytes, image_count, caption_count, verdicts)
            select {i}, 'n', 'uploaded', 'd' || i, 1, 1, 1, '{{}}' from generate_series(0, {ROWS} - 1) i;
        analyze;"
    );
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(db).await.unwrap();
}

/// Rows that this connection has read from a table, up to what it has reported before. Only differences within a transaction mean
/// something.
async fn read(db: &mut PgConnection, table: &str) -> i64 {
    let counted = "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
        from pg_stat_xact_user_tables where relname = $1";
    sqlx::query_scalar(counted).bind(table).fetch_one(db).await.unwrap()
}

async fn read_all<const N: usize>(db: &mut PgConnection, tables: [&str; N]) -> Vec<i64> {
    let mut rows = Vec::new();
    for table in tables {
        rows.push(read(db, table).await);
    }
    rows
}

/// A transaction that plans in one way only.
async fn begin(db: &PgPool, mode: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut tx = db.begin().await.unwrap();
    let set = format!("set local plan_cache_mode = {mode}");
    sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut *tx).await.unwrap();
    tx
}

const MODES: [&str; 2] = ["force_generic_plan", "force_custom_plan"];

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_deep_page_reads_its_own_rows(db: PgPool) {
    fill(&db).await;
    let project = ProjectId::DEFAULT;
    for (mode, order) in
        MODES.into_iter().flat_map(|mode| [(mode, Order::Desc), (mode, Order::Asc)])
    {
        let page = Page { after: Some(id(5000)), order, ..Page::newest(20) };
        let mut tx = begin(&db, mode).await;
        let tables = [("concept", 100), ("delta", 100), ("image_set", 100), ("job", 200)];
        let before = read_all(&mut tx, tables.map(|(table, _)| table)).await;

        let concepts =
            db::concept::list(&mut *tx, project, &SearchText::default(), None, page).await.unwrap();
        let deltas =
            db::delta::list(&mut *tx, project, &DeltaFilter::default(), page).await.unwrap().len();
        let sets = db::image_set::list(&mut *tx, project, None, page).await.unwrap().len();
        let all = JobFilter::default();
        let jobs =
            db::job::list(&mut *tx, project, JobKind::Merge, &all, page).await.unwrap().len();

        assert_eq!([concepts.len(), deltas, sets, jobs], [20; 4], "{mode}");
        let next = if order == Order::Desc { id(4999) } else { id(5001) };
        assert_eq!(concepts[0].concept_id.0, next, "{order:?}");
        for ((table, most), before) in tables.into_iter().zip(before) {
            let rows = read(&mut tx, table).await - before;
            assert!(rows <= most, "{mode}, {order:?}: {rows} rows of {table}");
        }
        tx.rollback().await.unwrap();
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_filter_has_an_index(db: PgPool) {
    fill(&db).await;
    let project = ProjectId::DEFAULT;
    let named = |name: &str| Some(ExternalId::try_from(name.to_owned()).unwrap());
    for (mode, order) in
        MODES.into_iter().flat_map(|mode| [(mode, Order::Desc), (mode, Order::Asc)])
    {
        let page = Page { order, ..Page::newest(20) };
        let mut tx = begin(&db, mode).await;
        for (filter, expected) in [
            (JobFilter { status: Some(JobStatus::Canceled), ..JobFilter::default() }, 10),
            (JobFilter { concept: Some(ConceptId(id(77))), ..JobFilter::default() }, 3),
            (JobFilter { external_id: named("job 4321"), ..JobFilter::default() }, 1),
            (JobFilter { seed: Some(77), ..JobFilter::default() }, 2),
        ] {
            let tables = ["job", "job_use"];
            let before = read_all(&mut tx, tables).await;
            let found =
                db::job::list(&mut *tx, project, JobKind::Merge, &filter, page).await.unwrap();
            assert_eq!(found.len(), expected, "{filter:?}");
            for (table, before) in tables.into_iter().zip(before) {
                let rows = read(&mut tx, table).await - before;
                assert!(rows <= 100, "{mode}, {order:?}, {filter:?}: {rows} rows of {table}");
            }
        }
        let before = read_all(&mut tx, ["concept", "delta"]).await;
        let concept = named("concept 4321");
        let delta = DeltaFilter { external_id: named("delta 4321"), ..DeltaFilter::default() };
        let concepts =
            db::concept::list(&mut *tx, project, &SearchText::default(), concept.as_ref(), page)
                .await
                .unwrap();
        let deltas = db::delta::list(&mut *tx, project, &delta, page).await.unwrap();
        let digest = DeltaFilter { sha256: Some("s4321".into()), ..DeltaFilter::default() };
        let of_digest = db::delta::list(&mut *tx, project, &digest, page).await.unwrap();
        assert_eq!((concepts[0].concept_id.0, deltas[0].delta_id.0), (id(4321), id(4321)));
        assert_eq!((of_digest.len(), of_digest[0].delta_id.0), (1, id(4321)));
        let after = read_all(&mut tx, ["concept", "delta"]).await;
        assert!(after.iter().zip(&before).all(|(after, before)| after - before < 50), "{mode}");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_deltas_of_a_concept_are_found_without_reading_those_of_others(db: PgPool) {
    fill(&db).await;
    for mode in MODES {
        let mut tx = begin(&db, mode).await;
        let project = ProjectId::DEFAULT;
        let of = DeltaFilter { concept: Some(ConceptId(id(77))), ..DeltaFilter::default() };
        let page = |after| Page { after, ..Page::newest(21) };
        let tables = ["delta", "delta_concept", "job"];
        let before = read_all(&mut tx, tables).await;

        let all = db::delta::list(&mut *tx, project, &of, page(None)).await.unwrap();
        let below = page(Some(id(9999)));
        let older = db::delta::list(&mut *tx, project, &of, below).await.unwrap();
        let newer = Page { order: Order::Asc, ..page(Some(id(5))) };
        let newer = db::delta::list(&mut *tx, project, &of, newer).await.unwrap();

        let ids = |deltas: &[vstar::domain::delta::Delta]| -> Vec<Uuid> {
            deltas.iter().map(|delta| delta.delta_id.0).collect()
        };
        assert_eq!(ids(&all), [id(9999), id(77), id(5)], "{mode}");
        assert_eq!(ids(&older), [id(77), id(5)], "{mode}");
        assert_eq!(ids(&newer), [id(77), id(9999)], "{mode}");
        for (table, before) in tables.into_iter().zip(before) {
            let rows = read(&mut tx, table).await - before;
            assert!(rows < 100, "{mode}: {rows} rows of {table}");
        }
    }
}
