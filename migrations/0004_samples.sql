-- What a sample can say, what it was made from, and what it looks like so far.

-- An image that was uploaded to start samples from belongs to neither a concept nor a sample.
alter table image drop constraint an_image_is_a_photo_or_a_sample;
alter table image add constraint an_image_is_not_both_photo_and_sample
    check (concept_id is null or sample_id is null);

-- A manifest names what made a picture by digest.
create index image_by_digest on image (sha256);
create index delta_by_digest on delta (sha256);

-- The newest preview of each picture of a running sample: overwritten while it runs and gone when it ends, so it is
-- neither an object, which never changes, nor an event, which is kept.
create table sample_preview (
    job_id uuid not null references job on delete cascade,
    index integer not null,
    step integer not null,
    png bytea not null,
    primary key (job_id, index)
);

create function drop_previews() returns trigger language plpgsql as $$
begin
    delete from sample_preview where job_id = new.job_id;
    return null;
end
$$;

create trigger drop_previews after update on job for each row
    when (new.finished_at is not null and old.finished_at is null)
    execute function drop_previews();

-- Tasks that were written before: the fields that are new to them, as they were drawn, and their deltas' digests.
update job set task = jsonb_set(
    task,
    '{settings}',
    '{"first_index": 0, "unconditional_strength": 1.0, "guidance_interval": [0.0, 1.0], "determinism": "strict"}'::jsonb
        || (task -> 'settings')
)
where kind = 'sample';

update job set task = jsonb_set(task, '{deltas}', coalesce((
    select jsonb_agg(used || jsonb_build_object('sha256', delta.sha256) order by place)
    from jsonb_array_elements(task -> 'deltas') with ordinality as given (used, place)
        join delta on delta.storage_key = used ->> 'storage_key'
), '[]'::jsonb))
where kind in ('sample', 'merge');
