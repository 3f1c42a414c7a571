-- Which concepts and deltas a job uses, so that lists find its jobs and a deletion what depends on a thing.

create table job_use (
    -- The id of a concept or a delta.
    used uuid not null,
    kind text not null,
    job_id uuid not null references job on delete cascade,
    primary key (used, kind, job_id)
);
create index job_use_by_job on job_use (job_id);

-- The UUID of a published id. Its 26 digits have 5 bits each, of which the first two are 0: 63 bits in the first half, 65 in the
-- second.
create function published_uuid(id text) returns uuid language plpgsql immutable strict parallel safe as $$
declare
    digits text = right(id, 26);
    high bigint = 0;
    low bigint = 0;
    digit integer;
begin
    for place in 1..13 loop
        high = (high << 5) | (strpos('0123456789abcdefghjkmnpqrstvwxyz', substr(digits, place, 1)) - 1);
    end loop;
    digit = strpos('0123456789abcdefghjkmnpqrstvwxyz', substr(digits, 14, 1)) - 1;
    high = (high << 1) | (digit >> 4);
    low = digit & 15;
    for place in 15..26 loop
        low = (low << 5) | (strpos('0123456789abcdefghjkmnpqrstvwxyz', substr(digits, place, 1)) - 1);
    end loop;
    return (lpad(to_hex(high), 16, '0') || lpad(to_hex(low), 16, '0'))::uuid;
end
$$;

-- The concepts and deltas that a task names, and the concepts that those deltas contain.
create function uses_of(task jsonb) returns setof uuid language plpgsql stable as $$
declare
    named uuid[];
begin
    select array_agg(distinct published_uuid(id #>> '{}')) into named
    from (
        select jsonb_path_query(task, '$.**.delta_id') as id
        union all select jsonb_path_query(task, '$.**.concept_id')
        union all select jsonb_path_query(task, '$.concepts[*] ? (@.type() == "string")')
        union all select jsonb_path_query(task, '$.start_from.concepts[*] ? (@.type() == "string")')
    ) as ids
    where id #>> '{}' ~ '^(cpt|dlt)_[0-7][0-9a-hjkmnp-tv-z]{25}$';
    if named is not null then
        return query
            select unnest(named) union select concept_id from delta_concept where delta_id = any(named);
    end if;
end
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
