-- The catalog: concepts and their images, the jobs that work on them, and the deltas that come out.
--
-- Ids are UUIDs of version 7, so their order is the order of creation.

create table concept (
    concept_id uuid primary key,
    handle text not null,
    modifier_token text,
    class_noun text not null,
    current_delta_id uuid, -- references delta, below
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint concept_handle_is_unique unique (handle),
    -- A token in a prompt means one concept. (Concepts without a token are not in each other's way.)
    constraint concept_modifier_token_is_unique unique (modifier_token)
);

-- The queue and the record of everything that was ever in it.
create table job (
    job_id uuid primary key,
    kind text not null,
    task jsonb not null,
    state text not null default 'queued',
    cancel_requested boolean not null default false,
    -- Counted when a worker takes the job, so that a job which kills its workers ends.
    attempts integer not null default 0,
    max_attempts integer not null default 3,
    -- Counts the leases. Whoever holds the job writes with the number it was given; an old number changes nothing.
    fence bigint not null default 0,
    worker text,
    lease_expires_at timestamptz,
    run_at timestamptz not null default now(),
    phase text,
    progress jsonb,
    error jsonb,
    revision bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    constraint job_kind_is_known check (kind in ('training', 'merge', 'sample')),
    constraint job_state_is_known check (state in ('queued', 'running', 'succeeded', 'failed', 'canceled')),
    constraint a_job_is_leased_while_it_runs check ((state = 'running') = (lease_expires_at is not null)),
    constraint a_failed_job_says_why check ((state = 'failed') = (error is not null)),
    constraint a_job_ends_once
        check ((state in ('succeeded', 'failed', 'canceled')) = (finished_at is not null)),
    constraint a_job_has_no_more_attempts_than_allowed check (attempts <= max_attempts)
);

create index job_queue on job (kind, job_id) where state = 'queued';
create index job_leases on job (lease_expires_at) where state = 'running';
create index job_list on job (kind, job_id);

-- What clients are told about a job, kept so that a listener can resume where it stopped.
create table job_event (
    job_id uuid not null references job on delete cascade,
    seq bigint not null, -- the job's revision that the event made
    state text not null,
    cancel_requested boolean not null,
    phase text,
    progress jsonb,
    error jsonb,
    created_at timestamptz not null default now(),
    primary key (job_id, seq)
);

-- Every change that a client can see gets a number and an event: here, so that no statement can forget it. A heartbeat
-- only moves the lease, and makes neither.
create function number_job_change() returns trigger language plpgsql as $$
begin
    new.revision = old.revision + 1;
    new.updated_at = now();
    return new;
end
$$;

create function record_job_change() returns trigger language plpgsql as $$
begin
    insert into job_event (job_id, seq, state, cancel_requested, phase, progress, error)
    values (new.job_id, new.revision, new.state, new.cancel_requested, new.phase, new.progress, new.error);
    return null;
end
$$;

create trigger number_job_change before update on job for each row
    when ((old.state, old.cancel_requested, old.phase, old.progress, old.error)
        is distinct from (new.state, new.cancel_requested, new.phase, new.progress, new.error))
    execute function number_job_change();

create trigger record_job_creation after insert on job for each row execute function record_job_change();

create trigger record_job_change after update on job for each row
    when (old.revision <> new.revision)
    execute function record_job_change();

-- The loss curve of a training.
create table job_metric (
    job_id uuid not null references job on delete cascade,
    step integer not null,
    loss double precision not null,
    grad_norm double precision,
    primary key (job_id, step)
);

create table image (
    image_id uuid primary key,
    concept_id uuid references concept on delete cascade,
    file_name text,
    sample_id uuid references job on delete cascade,
    index integer,
    width integer not null,
    height integer not null,
    size_bytes bigint not null,
    sha256 text not null,
    storage_key text not null,
    created_at timestamptz not null default now(),
    constraint an_image_is_a_photo_or_a_sample check ((concept_id is null) <> (sample_id is null)),
    constraint a_sampled_image_has_an_index check ((sample_id is null) = (index is null)),
    constraint image_of_a_sample_is_unique unique (sample_id, index),
    -- The same photo twice would only count double.
    constraint photo_of_a_concept_is_unique unique (concept_id, sha256)
);

create table delta (
    delta_id uuid primary key,
    job_id uuid not null references job,
    base_digest text not null,
    storage_key text not null,
    size_bytes bigint not null,
    sha256 text not null,
    created_at timestamptz not null default now(),
    constraint a_job_makes_one_delta unique (job_id)
);

create table delta_concept (
    delta_id uuid not null references delta on delete cascade,
    concept_id uuid not null references concept,
    position integer not null,
    primary key (delta_id, concept_id)
);

create index delta_concept_by_concept on delta_concept (concept_id, delta_id);

alter table concept
    add constraint concept_current_delta_exists
    foreign key (current_delta_id) references delta (delta_id);
