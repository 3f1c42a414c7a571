-- Which delta was the current one of a concept, and since when.

-- Who made the current delta the current one: `job`, `request` or `rollback`.
alter table concept add column promoted_by text not null default 'job';
alter table concept add constraint concept_promoter_is_known check (promoted_by in ('job', 'request', 'rollback'));

create table promotion (
    promotion_id bigint generated always as identity primary key,
    project_id uuid not null default '00000000-0000-0000-0000-000000000000',
    concept_id uuid not null references concept on delete cascade,
    delta_id uuid not null references delta on delete cascade,
    promoted_by text not null,
    promoted_at timestamptz not null default now(),
    -- Set by a roll-back, after which an earlier promotion counts again.
    rolled_back_at timestamptz,
    constraint promotion_has_a_promoter check (promoted_by in ('job', 'request'))
);
create index promotion_by_concept on promotion (concept_id, promotion_id);
create index promotion_by_delta on promotion (delta_id);

create function record_promotion() returns trigger language plpgsql as $$
begin
    insert into promotion (project_id, concept_id, delta_id, promoted_by)
    values (new.project_id, new.concept_id, new.current_delta_id, new.promoted_by);
    return null;
end
$$;
create trigger record_promotion after update on concept for each row
    when (new.current_delta_id is not null and new.current_delta_id is distinct from old.current_delta_id
        and new.promoted_by <> 'rollback')
    execute function record_promotion();

-- Of what was promoted before, only the last is known.
insert into promotion (project_id, concept_id, delta_id, promoted_by, promoted_at)
select concept.project_id, concept_id, delta_id, 'job', delta.created_at
from concept join delta on delta_id = current_delta_id
order by delta_id;

create index concept_by_current_delta on concept (current_delta_id) where current_delta_id is not null;
