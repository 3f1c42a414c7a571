-- What was answered to requests with an Idempotency-Key. A row is written in the transaction that makes what the request asks for.
create table idempotency_key (
    project_id uuid not null default '00000000-0000-0000-0000-000000000000',
    -- Method and route, such as 'POST /v1/trainings'.
    operation text not null,
    key text not null,
    -- SHA-256 of the path and the body; of a form, of its parts.
    fingerprint bytea not null,
    -- The published id of what was made, from which an answer follows if the process ended before it kept the one it gave.
    made text,
    status smallint,
    location text,
    body bytea,
    created_at timestamptz not null default now(),
    primary key (project_id, operation, key),
    constraint idempotency_key_is_short check (length(key) between 1 and 255),
    constraint idempotency_key_is_answered_whole check ((status is null) = (body is null)),
    constraint idempotency_key_leads_to_an_answer check (made is not null or status is not null)
);

create index idempotency_key_age on idempotency_key (created_at);
