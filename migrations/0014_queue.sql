-- The queue: a fair order between projects, attempts that say how they ended, deadlines, and what a worker has to have.
-- Nothing is removed that an earlier version of the program uses, so both can run while one replaces the other.

-- Whose job it is. So far there is one project.
alter table job add column project_id uuid not null default '00000000-0000-0000-0000-000000000000';

-- What a claim compares, outside of the task, which may be large. Plain columns, because generated ones are computed
-- from the task at every update of a table that has a trigger before it, and leases are renewed often. (Their
-- names are such that no statement of an earlier version becomes ambiguous.)
alter table job add column needs_base text;
alter table job add column needs_evaluator text;
alter table job add column task_version integer not null default 1;
-- The memory that a worker needs for it, as far as that is known.
alter table job add column needs_memory_mib integer not null default 0;

create function copy_what_a_claim_compares() returns trigger language plpgsql as $$
begin
    new.needs_base = new.task ->> 'base_digest';
    new.needs_evaluator = new.task ->> 'evaluator_digest';
    new.task_version = coalesce((new.task ->> 'version')::integer, 1);
    return new;
end
$$;

create trigger copy_what_a_claim_compares before insert on job for each row
    execute function copy_what_a_claim_compares();
update job
set needs_base = task ->> 'base_digest', needs_evaluator = task ->> 'evaluator_digest',
    task_version = coalesce((task ->> 'version')::integer, 1)
where state in ('queued', 'running');

-- Fair queueing: jobs of one kind and priority run in the order of their virtual finish. It counts the seconds of work
-- that their project has asked for, from the place where the queue was when it began to.
alter table job add column virtual_finish double precision not null default 0;
create table project_queue (
    project_id uuid not null,
    kind text not null,
    -- That of the project's last job.
    virtual_finish double precision not null,
    -- A project of twice the weight has twice the share.
    weight double precision not null default 1 check (weight > 0),
    primary key (project_id, kind)
);
create index project_queue_by_finish on project_queue (kind, virtual_finish);

-- Priorities are -1 (high), 0 and 1 (low). Samples of evaluations come after all others, by their evaluation's priority.
update job set priority = 3 where priority = 1 and state in ('queued', 'running');

-- `attempts` counts every claim. The limit is for attempts in a row that got no further, so that a training that goes
-- from checkpoint to checkpoint is never given up, and a worker that shuts down costs nothing.
alter table job add column barren_attempts integer not null default 0;
update job set barren_attempts = attempts where state in ('queued', 'running');
alter table job drop constraint a_job_has_no_more_attempts_than_allowed;
alter table job add constraint a_job_has_no_more_barren_attempts_than_allowed check (barren_attempts <= max_attempts);

-- Of the attempt that runs or ran last: when it began, and a `Failure` that says why it ended without ending the job.
alter table job add column attempt_started_at timestamptz;
alter table job add column attempt_error jsonb;
-- The training step that it went on from, and why it did not go on from a checkpoint that was there.
alter table job add column resumed_from_step integer;
alter table job add column started_over text;

-- An attempt that did not end its job, or failed it.
create table job_attempt (
    job_id uuid not null references job on delete cascade,
    attempt integer not null,
    worker text,
    started_at timestamptz,
    ended_at timestamptz not null default now(),
    -- A `Failure`: why it ended. Null if a version of the program ended it that did not say.
    reason jsonb,
    -- The training step that it went on from, and the last one that was reported.
    resumed_from_step integer,
    reached_step integer,
    primary key (job_id, attempt)
);

-- Here, so that no statement can forget it. Its name sorts before that of the trigger which deletes the curve of undone
-- steps, so it runs first.
create function end_attempt() returns trigger language plpgsql as $$
declare
    step integer;
begin
    if new.kind = 'training' then
        select max(job_metric.step) into step from job_metric where job_metric.job_id = new.job_id;
    else
        step = (old.progress ->> 'step')::integer;
    end if;
    insert into job_attempt (job_id, attempt, worker, started_at, reason, resumed_from_step, reached_step)
    values (new.job_id, old.attempts, old.worker, old.attempt_started_at, coalesce(new.error, new.attempt_error),
        old.resumed_from_step, step)
    -- Earlier versions give an attempt back, and count it again.
    on conflict (job_id, attempt) do update
    set worker = excluded.worker, started_at = excluded.started_at, ended_at = excluded.ended_at,
        reason = excluded.reason, resumed_from_step = excluded.resumed_from_step, reached_step = excluded.reached_step;
    return null;
end
$$;

create trigger end_attempt after update on job for each row
    when (old.state = 'running' and new.state in ('queued', 'failed'))
    execute function end_attempt();

-- Deadlines: a job that has not been started or has not ended by then fails.
alter table job add column start_before timestamptz;
alter table job add column finish_before timestamptz;
create index job_start_deadline on job (start_before) where state = 'queued' and start_before is not null;
create index job_finish_deadline on job (finish_before)
    where state in ('queued', 'running') and finish_before is not null;

drop index job_queue;
create index job_queue on job (kind, needs_base, waits_for, priority, virtual_finish, job_id) where state = 'queued';
-- For places in the queue and its length. It does not have the queue's order, so that no claim is planned on it: it would
-- read jobs for other base models.
drop index job_line;
create index job_line on job (kind, priority) include (virtual_finish, job_id) where state = 'queued';

-- Leases are renewed twice a second. Without an index on them, and with room in the pages, a renewal touches no index.
drop index job_leases;
create index job_running on job (job_id) where state = 'running';
-- A claim steps over the places of jobs that were claimed before, until they are vacuumed: often, although few of all rows
-- have changed.
alter table job set (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.005, autovacuum_vacuum_threshold = 5000);
alter table job_event set (autovacuum_vacuum_insert_scale_factor = 0.05);
