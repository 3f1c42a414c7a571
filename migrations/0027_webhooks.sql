-- Webhooks: where a project wants to be told of what happens, and what was or will be sent there.

create table webhook_endpoint (
    webhook_endpoint_id uuid primary key,
    project_id uuid not null default '00000000-0000-0000-0000-000000000000',
    url text not null,
    description text,
    -- Null: events of all types.
    event_types text[],
    enabled boolean not null default true,
    -- Why the sender disabled it; null if it is enabled, or if its owner disabled it.
    disabled_reason text,
    -- Deliveries are signed with these, so they are kept as they are. The previous one is still used until then.
    secret text not null,
    previous_secret text,
    previous_secret_until timestamptz,
    -- The first failure since the last success.
    failing_since timestamptz,
    metadata jsonb not null default '{}',
    external_id text,
    revision bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint webhook_endpoint_previous_secret_ends
        check ((previous_secret is null) = (previous_secret_until is null)),
    constraint webhook_endpoint_external_id_is_unique unique (project_id, external_id)
);

create index webhook_endpoint_list on webhook_endpoint (project_id, webhook_endpoint_id);

-- What its owner sees of an endpoint gets a number with every change. That it is failing is no such change.
create function number_webhook_endpoint_change() returns trigger language plpgsql as $$
begin
    new.revision = old.revision + 1;
    new.updated_at = now();
    return new;
end
$$;

create trigger number_webhook_endpoint_change before update on webhook_endpoint for each row
    when ((old.url, old.description, old.event_types, old.enabled, old.disabled_reason, old.secret, old.metadata,
            old.external_id)
        is distinct from (new.url, new.description, new.event_types, new.enabled, new.disabled_reason, new.secret,
            new.metadata, new.external_id))
    execute function number_webhook_endpoint_change();

-- The outbox: one row for each event and endpoint, written in the transaction that makes the event.
create table webhook_delivery (
    webhook_delivery_id uuid primary key,
    project_id uuid not null default '00000000-0000-0000-0000-000000000000',
    webhook_endpoint_id uuid not null references webhook_endpoint on delete cascade,
    event_type text not null,
    -- What the event is about: a job of this kind, a concept, or the endpoint itself.
    object text not null,
    object_id uuid not null,
    status text,
    object_revision bigint,
    external_id text,
    -- When it happened.
    occurred_at timestamptz not null default now(),
    state text not null default 'pending',
    -- Why it was given up.
    reason text,
    -- Attempts in all, and those since it was queued or sent again by hand.
    attempts integer not null default 0,
    tries integer not null default 0,
    next_attempt_at timestamptz,
    -- A sender is at it until then.
    leased_until timestamptz,
    finished_at timestamptz,
    constraint webhook_delivery_state_is_known check (state in ('pending', 'succeeded', 'failed', 'canceled')),
    constraint a_pending_webhook_delivery_has_a_next_attempt
        check ((state = 'pending') = (next_attempt_at is not null)),
    constraint a_webhook_delivery_ends_once check ((state = 'pending') = (finished_at is null)),
    constraint a_webhook_delivery_is_leased_while_it_is_pending check (state = 'pending' or leased_until is null)
);

create index webhook_delivery_list on webhook_delivery (webhook_endpoint_id, webhook_delivery_id);
create index webhook_delivery_due on webhook_delivery (webhook_endpoint_id, next_attempt_at) where state = 'pending';
create index webhook_delivery_leased on webhook_delivery (webhook_endpoint_id) where leased_until is not null;
create index webhook_delivery_finished on webhook_delivery (finished_at) where state <> 'pending';

-- One request to an endpoint and its answer.
create table webhook_attempt (
    webhook_delivery_id uuid not null references webhook_delivery on delete cascade,
    project_id uuid not null default '00000000-0000-0000-0000-000000000000',
    attempt integer not null,
    started_at timestamptz not null,
    duration_ms integer not null,
    status_code integer,
    -- Why it does not count as delivered; null if it does.
    error text,
    -- The beginning of the answer's body.
    answer text,
    primary key (webhook_delivery_id, attempt)
);

-- An id that sorts by time, as the program makes them.
create function new_webhook_delivery_id() returns uuid language sql volatile as $$
    select encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
        52, 1), 53, 1), 'hex')::uuid
$$;

create function queue_webhooks(event_type text, object text, object_id uuid, status text, of_row jsonb)
returns void language sql as $$
    insert into webhook_delivery (webhook_delivery_id, project_id, webhook_endpoint_id, event_type, object, object_id,
        status, object_revision, external_id, next_attempt_at)
    select new_webhook_delivery_id(), endpoint.project_id, endpoint.webhook_endpoint_id, queue_webhooks.event_type,
        queue_webhooks.object, queue_webhooks.object_id, queue_webhooks.status, (of_row ->> 'revision')::bigint,
        of_row ->> 'external_id', now()
    from webhook_endpoint as endpoint
    where endpoint.project_id = coalesce((of_row ->> 'project_id')::uuid, '00000000-0000-0000-0000-000000000000')
        and endpoint.enabled
        and (endpoint.event_types is null or queue_webhooks.event_type = any(endpoint.event_types))
$$;

-- Here, so that no statement can forget it. The samples of an evaluation are its own business.
create function queue_webhooks_of_job() returns trigger language plpgsql as $$
declare
    happened text = case when new.finished_at is null then 'started' else new.state end;
begin
    if exists (select from webhook_endpoint where project_id = new.project_id and enabled)
        and not exists (select from evaluation_sample where sample_id = new.job_id)
    then
        perform queue_webhooks(new.kind || '.' || happened, new.kind, new.job_id, new.state,
            to_jsonb(new) - 'task' - 'progress');
    end if;
    return null;
end
$$;

create trigger queue_webhooks after update on job for each row
    when ((old.started_at is null and new.started_at is not null and new.finished_at is null)
        or (old.finished_at is null and new.finished_at is not null))
    execute function queue_webhooks_of_job();

create function queue_webhooks_of_concept() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        perform queue_webhooks('concept.deleted', 'concept', old.concept_id, 'deleted', to_jsonb(old));
    else
        perform queue_webhooks('concept.promoted', 'concept', new.concept_id, 'promoted', to_jsonb(new));
    end if;
    return null;
end
$$;

create trigger queue_webhooks_of_promotion after update on concept for each row
    when (new.current_delta_id is distinct from old.current_delta_id and new.current_delta_id is not null)
    execute function queue_webhooks_of_concept();

create trigger queue_webhooks_of_deletion after delete on concept for each row
    execute function queue_webhooks_of_concept();
