-- Which concepts and deltas a job uses, so that lists find its jobs and a deletion what depends on a thing.

create table job_use (
    -- The id of a concept or a delta.
    used uuid not null,
    kind text not null,
    job_id uuid not null references job on delete cascade,
    primary key (used, kind, job_id)
);
create index job_use_by_job on job_use (job_id);

-- The UUID of a published id: its 26 digits have 5 bits each, of which the first two are 0.
create function published_uuid(id text) returns uuid language sql immutable strict parallel safe as $$
    select (lpad(to_hex(substr(bits, 3, 64)::bit(64)::bigint), 16, '0')
        || lpad(to_hex(substr(bits, 67, 64)::bit(64)::bigint), 16, '0'))::uuid
    from (
        select string_agg((strpos('0123456789abcdefghjkmnpqrstvwxyz', digit) - 1)::bit(5)::text, '' order by place) as bits
        from regexp_split_to_table(right(id, 26), '') with ordinality as digits (digit, place)
    ) as decoded
$$;

-- The concepts and deltas that a task names, and the concepts that those deltas contain.
create function uses_of(task jsonb) returns setof uuid language sql stable as $$
    with named as (
        select published_uuid(id #>> '{}') as used
        from (
            select jsonb_path_query(task, '$.**.delta_id') as id
            union all select jsonb_path_query(task, '$.**.concept_id')
            union all select jsonb_path_query(task, '$.concepts[*] ? (@.type() == "string")')
            union all select jsonb_path_query(task, '$.start_from.concepts[*] ? (@.type() == "string")')
        ) as ids
        where id #>> '{}' ~ '^(cpt|dlt)_[0-7][0-9a-hjkmnp-tv-z]{25}$'
    )
    select used from named
    union select concept_id from delta_concept where delta_id in (select used from named)
$$;

create function record_uses() returns trigger language plpgsql as $$
begin
    insert into job_use (used, kind, job_id) select used, new.kind, new.job_id from uses_of(new.task) as used;
    return null;
end
$$;
create trigger record_uses after insert on job for each row execute function record_uses();

insert into job_use (used, kind, job_id) select used, kind, job_id from job, uses_of(task) as used;

-- Which evaluations a study compares.
create table study_use (
    evaluation_id uuid not null references job on delete cascade,
    study_id uuid not null references preference_study on delete cascade,
    primary key (evaluation_id, study_id)
);
create index study_use_by_study on study_use (study_id);

create function record_uses_of_study() returns trigger language plpgsql as $$
begin
    insert into study_use (evaluation_id, study_id)
    select distinct published_uuid(id #>> '{}'), new.study_id
    from jsonb_path_query(new.definition, '$.sides[*].evaluation') as id
    on conflict do nothing;
    return null;
end
$$;
create trigger record_uses_of_study after insert on preference_study for each row
    execute function record_uses_of_study();

insert into study_use (evaluation_id, study_id)
select distinct job_id, study_id
from preference_study
    cross join lateral jsonb_path_query(definition, '$.sides[*].evaluation') as id
    join job on job_id = published_uuid(id #>> '{}');
