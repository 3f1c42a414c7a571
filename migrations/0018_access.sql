-- Keys of the API, quotas of projects, and who has changed what.

create table api_key (
    key_id uuid primary key,
    project_id uuid not null references project,
    -- The part of the key that is no secret, by which it is found.
    public_id text not null,
    name text not null,
    -- HMAC-SHA256 of the secret part. The key to that is no row of this database.
    secret_mac bytea not null,
    -- Of the secret before the last rotation, which is good until then.
    previous_mac bytea,
    previous_until timestamptz,
    scopes text[] not null,
    expires_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz not null default now(),
    constraint api_key_public_id_is_unique unique (public_id),
    constraint a_former_secret_has_an_end check ((previous_mac is null) = (previous_until is null))
);
create index api_key_by_project on api_key (project_id, key_id);

-- The HMAC of a constant under the pepper that keys are made with: a process with another pepper would refuse all of them.
create table key_pepper (
    only_one boolean primary key default true check (only_one),
    fingerprint bytea not null
);

-- Null is no limit. Usage is counted from what exists, so nothing has to be given back.
alter table project add column max_concepts bigint check (max_concepts >= 0);
alter table project add column max_stored_bytes bigint check (max_stored_bytes >= 0);
alter table project add column max_active_jobs bigint check (max_active_jobs >= 0);
create index image_bytes_by_project on image (project_id) include (size_bytes);
create index job_active_by_project on job (project_id, state) where state in ('queued', 'running');

-- A change that somebody has made. Rows are added and never changed.
create table audit (
    audit_id uuid primary key,
    project_id uuid not null default '00000000-0000-0000-0000-000000000000',
    key_id uuid, -- stays when the key is deleted
    operation text not null,
    object text not null,
    status integer not null,
    request_id text not null,
    created_at timestamptz not null default now()
);
create index audit_by_project on audit (project_id, audit_id);
