-- The queue: a fair order between projects, attempts that say how they ended, deadlines, and what a worker has to have.
-- Nothing is removed that an earlier version of the program uses, so both can run while one replaces the other.

-- Whose job it is. So far there is one project.
alter table job add column project_id uuid not null default '00000000-0000-0000-0000-000000000000';

-- What a claim compares, outside of the task, which may be large.
alter table job add column needs_base text generated always as (task ->> 'base_digest') stored;
alter table job add column needs_evaluator text generated always as (task ->> 'evaluator_digest') stored;
alter table job add column task_version integer
    generated always as (coalesce((task ->> 'version')::integer, 1)) stored;
-- The memory that a worker needs for it, as far as that is known.
alter table job add column needs_memory_mib integer not null default 0;

-- Start-time fair queueing: when a project's job would be done if every project had a worker of its own, in seconds since
-- 1970. Jobs of one kind and priority run in this order.
alter table job add column virtual_finish double precision not null default 0;
update job set virtual_finish = extract(epoch from created_at) where state = 'queued';
create table project_queue (
    project_id uuid not null,
    kind text not null,
    virtual_finish double precision not null,
    primary key (project_id, kind)
);

-- `attempts` counts every claim. The limit is for attempts in a row that got no further, so that a training that goes
-- from checkpoint to checkpoint is never given up, and a worker that shuts down costs nothing.
alter table job add column barren_attempts integer not null default 0;
update job set barren_attempts = attempts where state in ('queued', 'running');
alter table job drop constraint a_job_has_no_more_attempts_than_allowed;
alter table job add constraint a_job_has_no_more_barren_attempts_than_allowed check (barren_attempts <= max_attempts);

alter table job add column attempt_started_at timestamptz;

-- An attempt that did not end its job, or failed it.
create table job_attempt (
    job_id uuid not null references job on delete cascade,
    attempt integer not null,
    worker text,
    started_at timestamptz,
    ended_at timestamptz not null default now(),
    -- A `Failure`: why it ended.
    reason jsonb not null,
    -- The training step that it went on from, and the last one that was reported.
    resumed_from_step integer,
    reached_step integer,
    primary key (job_id, attempt)
);

-- Deadlines: a job that has not been started or has not ended by then fails.
alter table job add column start_before timestamptz;
alter table job add column finish_before timestamptz;
create index job_start_deadline on job (start_before) where state = 'queued' and start_before is not null;
create index job_finish_deadline on job (finish_before)
    where state in ('queued', 'running') and finish_before is not null;

drop index job_queue;
create index job_queue on job (kind, needs_base, waits_for, priority, virtual_finish, job_id) where state = 'queued';
drop index job_line;
create index job_line on job (kind, priority, virtual_finish, job_id) where state = 'queued';
