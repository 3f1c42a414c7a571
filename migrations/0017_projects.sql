-- Projects: whose things are whose. Everything that a client has named or made belongs to one project.
--
-- What was there before, and what an earlier version of the program adds while it still runs, belongs to the default project.

create table project (
    project_id uuid primary key,
    name text not null,
    created_at timestamptz not null default now()
);
insert into project (project_id, name) values ('00000000-0000-0000-0000-000000000000', 'default');

alter table concept add column project_id uuid not null default '00000000-0000-0000-0000-000000000000';
alter table image add column project_id uuid not null default '00000000-0000-0000-0000-000000000000';
alter table image_set add column project_id uuid not null default '00000000-0000-0000-0000-000000000000';
alter table delta add column project_id uuid not null default '00000000-0000-0000-0000-000000000000';
alter table preference_study add column project_id uuid not null default '00000000-0000-0000-0000-000000000000';

-- Jobs had a project before there was a table of them, so an older catalog may have others.
insert into project (project_id, name) select distinct project_id, project_id::text from job on conflict do nothing;

-- Names are unique within a project. To the others they do not exist.
alter table concept drop constraint concept_handle_is_unique;
alter table concept add constraint concept_handle_is_unique unique (project_id, handle);
alter table concept drop constraint concept_modifier_token_is_unique;
alter table concept add constraint concept_modifier_token_is_unique unique (project_id, modifier_token);
alter table image_set drop constraint image_set_is_generated_once;
alter table image_set add constraint image_set_is_generated_once unique (project_id, generation_digest);

create index concept_by_project on concept (project_id, concept_id);
create index image_set_by_project on image_set (project_id, image_set_id);
create index delta_by_project on delta (project_id, delta_id);
create index preference_study_by_project on preference_study (project_id, study_id);
drop index job_list;
create index job_list on job (project_id, kind, job_id);

-- What belongs to something else belongs to its project: here, so that no statement can forget it.
create function give_image_its_project() returns trigger language plpgsql as $$
begin
    new.project_id = coalesce(
        (select project_id from concept where concept_id = new.concept_id),
        (select project_id from job where job_id = new.sample_id),
        new.project_id
    );
    return new;
end
$$;

create trigger give_image_its_project before insert on image for each row execute function give_image_its_project();

create function give_delta_its_project() returns trigger language plpgsql as $$
begin
    new.project_id = coalesce((select project_id from job where job_id = new.job_id), new.project_id);
    return new;
end
$$;

create trigger give_delta_its_project before insert on delta for each row execute function give_delta_its_project();
