-- Events that only report progress are deleted after a while (`db::event::forget`). A running job makes two a second, and
-- once it has ended nobody needs them. What happened to a job, from its creation to its end, is kept.

alter table job_event add column only_progress boolean not null default false;
update job_event set only_progress = true
from job_event as earlier
where earlier.job_id = job_event.job_id and earlier.seq = job_event.seq - 1
    and (earlier.state, earlier.cancel_requested, earlier.phase, earlier.error)
        is not distinct from (job_event.state, job_event.cancel_requested, job_event.phase, job_event.error);
create index job_event_progress on job_event (created_at) where only_progress;

create or replace function record_job_change() returns trigger language plpgsql as $$
begin
    insert into job_event (job_id, seq, state, cancel_requested, phase, progress, error, only_progress)
    values (new.job_id, new.revision, new.state, new.cancel_requested, new.phase, new.progress, new.error,
        case when tg_op = 'UPDATE' then
            (old.state, old.cancel_requested, old.phase, old.error)
                is not distinct from (new.state, new.cancel_requested, new.phase, new.error)
        else false end);
    return null;
end
$$;
