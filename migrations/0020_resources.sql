-- What all objects have in common: metadata, an id of the client's own, a revision, and the time of their last change.

-- A revision is one state of what the API answers for an object. It is counted here, so that no statement can forget it.
create function count_revision() returns trigger language plpgsql as $$
begin
    new.revision = old.revision + 1;
    new.updated_at = now();
    return new;
end
$$;

alter table concept
    add column revision bigint not null default 1,
    add column metadata jsonb not null default '{}',
    add column external_id text;
alter table image
    add column revision bigint not null default 1,
    add column updated_at timestamptz not null default now(),
    add column metadata jsonb not null default '{}',
    add column external_id text;
alter table image_set
    add column revision bigint not null default 1,
    add column updated_at timestamptz not null default now(),
    add column metadata jsonb not null default '{}',
    add column external_id text;
alter table delta
    add column revision bigint not null default 1,
    add column updated_at timestamptz not null default now(),
    add column metadata jsonb not null default '{}',
    add column external_id text;
alter table preference_study
    add column revision bigint not null default 1,
    add column updated_at timestamptz not null default now(),
    add column metadata jsonb not null default '{}',
    add column external_id text;
-- A job has a revision and the time already.
alter table job
    add column metadata jsonb not null default '{}',
    add column external_id text;

update image set updated_at = created_at;
update image_set set updated_at = created_at;
update delta set updated_at = created_at;
update preference_study set updated_at = created_at;

-- An external id names one object of its kind in a project.
create unique index concept_external_id_is_unique on concept (project_id, external_id) where external_id is not null;
create unique index image_external_id_is_unique on image (project_id, external_id) where external_id is not null;
create unique index image_set_external_id_is_unique on image_set (project_id, external_id)
    where external_id is not null;
create unique index delta_external_id_is_unique on delta (project_id, external_id) where external_id is not null;
create unique index preference_study_external_id_is_unique on preference_study (project_id, external_id)
    where external_id is not null;
create unique index job_external_id_is_unique on job (project_id, kind, external_id) where external_id is not null;

create trigger count_revision before update on concept for each row
    when (old.* is distinct from new.*) execute function count_revision();
create trigger count_revision before update on image for each row
    when (old.* is distinct from new.*) execute function count_revision();
create trigger count_revision before update on image_set for each row
    when (old.* is distinct from new.*) execute function count_revision();
create trigger count_revision before update on delta for each row
    when (old.* is distinct from new.*) execute function count_revision();
create trigger count_revision before update on preference_study for each row
    when (old.* is distinct from new.*) execute function count_revision();

-- Objects are also shown as parts of others: the number of a concept's photos, the images of a sample, the delta of a
-- training, the handles of a delta's concepts. Then the other one has a new revision as well.
create function touch_concept_of_photo() returns trigger language plpgsql as $$
begin
    update concept set updated_at = clock_timestamp()
    where concept_id = case when tg_op = 'INSERT' then new.concept_id else old.concept_id end;
    return null;
end
$$;
create trigger touch_concept_of_added_photo after insert on image for each row
    when (new.concept_id is not null) execute function touch_concept_of_photo();
create trigger touch_concept_of_deleted_photo after delete on image for each row
    when (old.concept_id is not null) execute function touch_concept_of_photo();

create function touch_job() returns trigger language plpgsql as $$
begin
    update job set updated_at = clock_timestamp()
    where job_id = case when tg_table_name = 'image' then to_jsonb(old) ->> 'sample_id' else to_jsonb(old) ->> 'job_id' end::uuid;
    return null;
end
$$;
create trigger touch_sample_of_deleted_image after delete on image for each row
    when (old.sample_id is not null) execute function touch_job();
create trigger touch_job_of_deleted_delta after delete on delta for each row execute function touch_job();

create function touch_deltas_of_concept() returns trigger language plpgsql as $$
begin
    update delta set updated_at = clock_timestamp()
    where delta_id in (select delta_id from delta_concept where concept_id = new.concept_id);
    return null;
end
$$;
create trigger touch_deltas_of_concept after update on concept for each row
    when (old.handle <> new.handle) execute function touch_deltas_of_concept();

drop trigger number_job_change on job;
create trigger number_job_change before update on job for each row
    when ((old.state, old.cancel_requested, old.phase, old.progress, old.error, old.metadata, old.external_id,
            old.updated_at)
        is distinct from (new.state, new.cancel_requested, new.phase, new.progress, new.error, new.metadata,
            new.external_id, new.updated_at))
    execute function number_job_change();

-- A job that has ended is not on its way: one that has succeeded has done all its steps, and of the others
-- `job_attempt.reached_step` says how far they came. Its name sorts before that of the trigger which numbers the change.
create function conclude_progress() returns trigger language plpgsql as $$
begin
    new.progress = case when new.state = 'succeeded' and new.progress is not null then
        new.progress || jsonb_build_object('step', new.progress -> 'total_steps', 'previews', '[]'::jsonb)
        || case when new.progress ? 'eta_seconds' then '{"eta_seconds": 0}'::jsonb else '{}' end
    end;
    return new;
end
$$;
create trigger conclude_progress before update on job for each row
    when (new.finished_at is not null and old.finished_at is null) execute function conclude_progress();
-- What is there already is only written in another way: that is no change of a job.
alter table job disable trigger user;
update job set progress = case when state = 'succeeded' then
        progress || jsonb_build_object('step', progress -> 'total_steps', 'previews', '[]'::jsonb, 'eta_seconds', 0)
    end
where finished_at is not null and progress is not null;
alter table job enable trigger user;

-- An event that only reports progress changes nothing else, metadata included.
create or replace function record_job_change() returns trigger language plpgsql as $$
begin
    insert into job_event (job_id, seq, state, cancel_requested, phase, progress, error, only_progress)
    values (new.job_id, new.revision, new.state, new.cancel_requested, new.phase, new.progress, new.error,
        case when tg_op = 'UPDATE' then
            (old.state, old.cancel_requested, old.phase, old.error)
                is not distinct from (new.state, new.cancel_requested, new.phase, new.error)
            and old.progress is distinct from new.progress
        else false end);
    return null;
end
$$;

-- Lists by status, in the order of their pages.
create index job_list_by_state on job (project_id, kind, state, job_id);

-- A study is shown with its links and the results of its votes.
create function touch_study() returns trigger language plpgsql as $$
begin
    update preference_study set updated_at = clock_timestamp()
    where study_id = case when tg_table_name = 'preference_link' then (to_jsonb(new) ->> 'study_id')::uuid
        else (select study_id from preference_link where token = new.token) end;
    return null;
end
$$;
create trigger touch_study_of_link after insert on preference_link for each row execute function touch_study();
create trigger touch_study_of_vote after insert on preference_vote for each row execute function touch_study();
