-- Evaluations: jobs that wait for samples of their own. And reports of jobs.

alter table job drop constraint job_kind_is_known;
alter table job add constraint job_kind_is_known check (kind in ('training', 'merge', 'sample', 'evaluation'));

-- Jobs of a kind run by priority, 0 first. Samples of evaluations let all others go first.
alter table job add column priority smallint not null default 0;

-- How many jobs have to end before a worker may take this one.
alter table job add column waits_for integer not null default 0;
alter table job add constraint a_job_waits_for_some_or_none check (waits_for >= 0);

drop index job_queue;
-- What a worker may take, in its order. A claim reads no other rows.
create index job_queue on job (kind, (task ->> 'base_digest'), waits_for, priority, job_id) where state = 'queued';
-- What a client's job has to wait for, in its order.
create index job_line on job (kind, priority, job_id) where state = 'queued';

-- Which samples make the images of an evaluation, and for what.
create table evaluation_sample (
    sample_id uuid primary key references job on delete cascade,
    evaluation_id uuid not null references job on delete cascade,
    subject integer not null,
    prompt integer not null
);

create index evaluation_sample_by_evaluation on evaluation_sample (evaluation_id);

-- A sample that has ended, in whatever way, is counted here, so that no statement can forget it. While an evaluation
-- waits, this is its progress.
create function count_ended_sample() returns trigger language plpgsql as $$
declare
    left_over integer;
begin
    update job
    set waits_for = waits_for - 1,
        progress = case when state = 'queued' then
            jsonb_set(progress, '{step}', to_jsonb((progress ->> 'total_steps')::integer - waits_for + 1))
            else progress
        end
    where job_id = (select evaluation_id from evaluation_sample where sample_id = new.job_id) and waits_for > 0
    returning waits_for into left_over;
    if left_over = 0 then
        perform pg_notify('job_queued', 'evaluation');
    end if;
    return null;
end
$$;

create trigger count_ended_sample after update on job for each row
    when (new.kind = 'sample' and new.finished_at is not null and old.finished_at is null)
    execute function count_ended_sample();

-- What a job has found out; trainings and evaluations that have succeeded.
create table job_report (
    job_id uuid primary key references job on delete cascade,
    report jsonb not null,
    -- The contact sheet of an evaluation.
    sheet_key text
);
