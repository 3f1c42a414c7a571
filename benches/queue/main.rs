//! How fast the queue is: claims among many jobs that have ended and many that wait, and in which order projects come.
//!
//! `vstar with-postgres -- cargo bench --bench queue` prints a table in Markdown. It fills the database that `DATABASE_URL`
//! names, which has to be empty.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use futures::future::try_join_all;
use sqlx::postgres::PgPoolOptions;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor, PgPool};
use tokio::sync::Mutex;
use uuid::Uuid;
use vstar::db;
use vstar::db::job::{Capacity, NewJob};
use vstar::domain::id::{JobId, ProjectId};
use vstar::domain::job::{JobKind, LeasedJob, Phase, Progress, Task};

const DIGEST: &str = "base";

#[derive(Clone, Parser)]
struct Args {
    /// Jobs that have ended.
    #[arg(long, default_value_t = 1_000_000)]
    ended: i64,
    /// Jobs that wait.
    #[arg(long, default_value_t = 100_000)]
    queued: i64,
    /// Projects that they belong to.
    #[arg(long, default_value_t = 1000)]
    projects: i64,
    /// Workers that claim jobs.
    #[arg(long, default_value_t = 100)]
    workers: usize,
    /// Connections that they share.
    #[arg(long, default_value_t = 20)]
    connections: u32,
    /// How long each part runs, in seconds. Claims take jobs for good, so the queue has to last.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(&Args::parse()))
}

async fn run(args: &Args) -> Result<()> {
    let url = std::env::var("DATABASE_URL").context("set DATABASE_URL to an empty database")?;
    let options = PgPoolOptions::new()
        .max_connections(args.connections)
        .acquire_timeout(Duration::from_secs(60));
    let db = options
        .after_connect(|connection, _| {
            Box::pin(async move {
                // As in the program itself.
                sqlx::raw_sql("set enable_seqscan = off; set jit = off")
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .connect(&url)
        .await?;
    db::MIGRATOR.run(&db).await?;
    println!("| what | measured |\n|---|---|");
    fairness(&db, 1).await?;
    fairness(&db, 8).await?;
    let began = Instant::now();
    fill(&db, args).await?;
    println!(
        "| filled with {} jobs that have ended and {} that wait, of {} projects | {:.0} s |",
        args.ended,
        args.queued,
        args.projects,
        began.elapsed().as_secs_f64()
    );
    for work in [Work::ClaimOne, Work::ClaimEight, Work::Report, Work::Whole, Work::Enqueue] {
        measure(&db, args, work).await?;
    }
    Ok(())
}

fn task() -> Result<Task> {
    let settings = serde_json::json!({
        "n": 1, "first_index": 0, "seed": 1, "num_inference_steps": 50, "guidance_scale": 7.5,
        "unconditional_strength": 1.0, "guidance_interval": [0.0, 1.0], "scheduler": "ddim", "eta": 0.0,
        "width": 512, "height": 512, "determinism": "strict", "preview_every": null,
    });
    Ok(serde_json::from_value(serde_json::json!({
        "kind": "sample", "base_digest": DIGEST, "prompt": "photo of a <rex> dog on the beach", "negative_prompt": "",
        "settings": settings, "deltas": [], "init": null,
    }))?)
}

async fn fill(db: &PgPool, args: &Args) -> Result<()> {
    let mut db = db.acquire().await?;
    // Without the triggers, which would only take time.
    sqlx::query("set session_replication_role = replica").execute(&mut *db).await?;
    let ended = "insert into job (job_id, kind, task, needs_base, rows, state, attempts, finished_at, project_id)
        select gen_random_uuid(), 'sample', $1, 'base', 2, 'succeeded', 1, now() - n * interval '1 second',
            lpad(to_hex(n % $2), 32, '0')::uuid
        from generate_series(1, $3::bigint) as n";
    sqlx::query(ended)
        .bind(Json(task()?))
        .bind(args.projects)
        .bind(args.ended)
        .execute(&mut *db)
        .await?;
    let queued = "insert into job (job_id, kind, task, needs_base, rows, project_id, virtual_finish)
        select gen_random_uuid(), 'sample', $1, 'base', 2, lpad(to_hex(n % $2), 32, '0')::uuid, n / $2
        from generate_series(1, $3::bigint) as n";
    sqlx::query(queued)
        .bind(Json(task()?))
        .bind(args.projects)
        .bind(args.queued)
        .execute(&mut *db)
        .await?;
    let places = "insert into project_queue (project_id, kind, virtual_finish)
        select lpad(to_hex(n), 32, '0')::uuid, 'sample', $2 from generate_series(0, $1 - 1) as n
        on conflict (project_id, kind) do update set virtual_finish = excluded.virtual_finish";
    let last = args.queued as f64 / args.projects as f64;
    sqlx::query(places).bind(args.projects).bind(last).execute(&mut *db).await?;
    sqlx::query("set session_replication_role = origin").execute(&mut *db).await?;
    sqlx::query("vacuum analyze").execute(&mut *db).await?;
    sqlx::query("checkpoint").execute(&mut *db).await?;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    ClaimOne,
    ClaimEight,
    /// One job for each worker, whose lease is renewed with its progress again and again.
    Report,
    /// Claim, one report, end: all that a job asks of the database.
    Whole,
    Enqueue,
}

async fn claim(db: impl PgExecutor<'_>, elements: usize) -> Result<Vec<LeasedJob>> {
    let capacity = Capacity {
        worker: "gpu",
        kinds: &[JobKind::Sample],
        base_digest: DIGEST,
        evaluator_digest: None,
        memory_mib: None,
        batch_elements: elements,
        lease: Duration::from_secs(3600),
    };
    Ok(db::job::lease_next(db, capacity).await?)
}

/// The processor time that the server has taken so far, in seconds; `None` if it does not run on this machine.
async fn server_seconds(db: &PgPool) -> Result<Option<f64>> {
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(db).await?;
    let Some(server) = stat(&backend.to_string()).map(|stat| stat.parent) else { return Ok(None) };
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(stat) = name.to_str().and_then(stat) else { continue };
        if stat.parent == server || name.to_str() == Some(server.to_string().as_str()) {
            ticks += stat.ticks;
        }
    }
    Ok(Some(ticks as f64 / TICKS_PER_SECOND))
}

/// Linux counts processor time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

struct Stat {
    parent: u32,
    ticks: u64,
}

/// What Linux says of a process.
fn stat(pid: &str) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have spaces.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks: number(11)? + number(12)? })
}

async fn report(db: &mut PgConnection, job: &LeasedJob, step: usize) -> Result<()> {
    let progress = Progress {
        step,
        total_steps: 50,
        loss: None,
        steps_per_second: Some(10.0),
        eta_seconds: Some(1.0),
        previews: Vec::new(),
    };
    let lease = Duration::from_secs(3600);
    let held = db::job::report(db, job.job_id, job.fence, Phase::Denoising, Some(&progress), lease)
        .await?;
    held.context("the lease is lost")?;
    Ok(())
}

async fn measure(db: &PgPool, args: &Args, work: Work) -> Result<()> {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let jobs = Arc::new(AtomicUsize::new(0));
    let task = task()?;
    let taken_before = server_seconds(db).await?;
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let began = Instant::now();
    let workers = (0..args.workers).map(|worker| {
        let (db, taken, jobs, task) = (db.clone(), taken.clone(), jobs.clone(), task.clone());
        tokio::spawn(async move {
            let mut times = Vec::new();
            let mut own = match work {
                Work::Report => claim(&db, 1).await?,
                Work::ClaimOne | Work::ClaimEight | Work::Whole | Work::Enqueue => Vec::new(),
            };
            while Instant::now() < until {
                let asked = Instant::now();
                // With a connection in hand, as a worker of its own process has one.
                let mut connection = db.acquire().await?;
                let began = Instant::now();
                match work {
                    Work::Enqueue => {
                        let project_id = ProjectId(Uuid::from_u128(worker as u128));
                        let job = NewJob::new(JobId::generate(), &task, 2, 2.5);
                        db::job::enqueue(&mut *connection, NewJob { project_id, ..job }).await?;
                        jobs.fetch_add(1, Ordering::Relaxed);
                        times.push((began.elapsed(), asked.elapsed()));
                    }
                    Work::Report => {
                        let job = own.pop().context("no job is left")?;
                        report(&mut connection, &job, times.len()).await?;
                        times.push((began.elapsed(), asked.elapsed()));
                        jobs.fetch_add(1, Ordering::Relaxed);
                        own.push(job);
                    }
                    Work::ClaimOne | Work::ClaimEight | Work::Whole => {
                        let elements = if work == Work::ClaimEight { 16 } else { 1 };
                        let leased = claim(&mut *connection, elements).await?;
                        times.push((began.elapsed(), asked.elapsed()));
                        jobs.fetch_add(leased.len(), Ordering::Relaxed);
                        if leased.is_empty() {
                            break;
                        }
                        for job in leased.iter().filter(|_| work == Work::Whole) {
                            report(&mut connection, job, 1).await?;
                            db::job::succeed(&mut *connection, job.job_id, job.fence).await?;
                        }
                    }
                }
            }
            taken.lock().await.extend(times);
            anyhow::Ok(())
        })
    });
    for worker in try_join_all(workers).await? {
        worker?;
    }
    let elapsed = began.elapsed().as_secs_f64();
    let taken_after = server_seconds(db).await?;
    let times =
        Arc::try_unwrap(taken).map_err(|_| anyhow::anyhow!("a worker is left"))?.into_inner();
    let jobs = jobs.load(Ordering::Relaxed);
    let mut statements: Vec<f64> = times.iter().map(|time| 1e3 * time.0.as_secs_f64()).collect();
    let mut with_waiting: Vec<f64> = times.iter().map(|time| 1e3 * time.1.as_secs_f64()).collect();
    statements.sort_by(f64::total_cmp);
    with_waiting.sort_by(f64::total_cmp);
    let at = |sorted: &[f64], share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    let what = match work {
        Work::ClaimOne => "claims of one job",
        Work::ClaimEight => "claims of up to eight jobs",
        Work::Report => "reports of progress, which renew a lease",
        Work::Whole => "jobs from claim over one report to their end",
        Work::Enqueue => "new jobs",
    };
    println!(
        "| {what}: statements/s, jobs/s | {:.0}, {:.0} |",
        times.len() as f64 / elapsed,
        jobs as f64 / elapsed
    );
    println!(
        "| p50, p99 of the statement; with the wait for one of {} connections | {:.1} ms, {:.1} ms; {:.1} ms, {:.1} ms |",
        args.connections,
        at(&statements, 0.5),
        at(&statements, 0.99),
        at(&with_waiting, 0.5),
        at(&with_waiting, 0.99),
    );
    if let (Some(before), Some(after)) = (taken_before, taken_after) {
        println!(
            "| processor time of Postgres for each job; share of one core | {:.2} ms; {:.2} |",
            1e3 * (after - before) / jobs as f64,
            (after - before) / elapsed
        );
    }
    Ok(())
}

/// 8000 jobs of one project, then 20 each of 20 others.
async fn fairness(db: &PgPool, batch: usize) -> Result<()> {
    let task = task()?;
    let began = Instant::now();
    for (project, count) in std::iter::once((1, 8000)).chain((2..22).map(|small| (small, 20))) {
        for _ in 0..count {
            let job = NewJob::new(JobId::generate(), &task, 2, 2.5);
            let project_id = ProjectId(Uuid::from_u128(project));
            db::job::enqueue(db, NewJob { project_id, ..job }).await?;
        }
    }
    let per_second = 8400.0 / began.elapsed().as_secs_f64();
    let mut order = Vec::new();
    loop {
        let leased = claim(db, 2 * batch).await?;
        if leased.is_empty() {
            break;
        }
        order.extend(leased.iter().map(|job| job.job_id.0));
    }
    let query = "select project_id from job join unnest($1::uuid[]) with ordinality as place (job_id, number)
        using (job_id) order by number";
    let projects: Vec<Uuid> = sqlx::query_scalar(query).bind(&order).fetch_all(db).await?;
    let is_small = |project: &Uuid| *project != Uuid::from_u128(1);
    let last = projects.iter().rposition(is_small).context("no small project")? + 1;
    let first = projects.iter().position(is_small).context("no small project")? + 1;
    println!(
        "| 400 jobs of 20 projects behind 8000 of one, claims of up to {batch}: places of their first and last | {first}, {last} of {} |",
        projects.len()
    );
    if batch == 1 {
        println!("| jobs queued one after the other | {per_second:.0} per second |");
    }
    sqlx::raw_sql("delete from job; delete from project_queue").execute(db).await?;
    Ok(())
}
