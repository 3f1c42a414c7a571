-- Checkpoints of trainings: what a worker needs to go on from where another one stopped.

create table checkpoint (
    job_id uuid not null references job on delete cascade,
    -- Training steps taken.
    step integer not null,
    fence bigint not null,
    storage_key text not null,
    size_bytes bigint not null,
    sha256 text not null,
    -- Of everything that the training's result depends on. Another input or another engine gives other bytes.
    input_digest text not null,
    engine_version text not null,
    created_at timestamptz not null default now(),
    primary key (job_id, step)
);

-- A loss curve has no steps that were undone.
create function forget_undone_steps() returns trigger language plpgsql as $$
begin
    delete from job_metric
    where job_id = new.job_id
        and step > coalesce((select max(step) from checkpoint where checkpoint.job_id = new.job_id), 0);
    return null;
end
$$;

create trigger forget_undone_steps after update on job for each row
    when (old.state = 'running' and new.state = 'queued' and new.kind = 'training')
    execute function forget_undone_steps();
