-- What samples are looked for by, outside of the task, which may be large. Plain columns, as those that a claim compares.

-- In lower case. The program writes it, for its lower case knows every letter, whatever the locale of the database is; an earlier
-- version leaves it to the trigger.
alter table job add column sample_prompt text;
alter table job add column sample_seed bigint;

create function copy_what_samples_are_found_by() returns trigger language plpgsql as $$
begin
    new.sample_prompt = coalesce(new.sample_prompt, lower(new.task ->> 'prompt'));
    -- Early versions took seeds up to 2^64.
    if new.sample_seed is null and (new.task -> 'settings' ->> 'seed')::numeric < 9223372036854775808 then
        new.sample_seed = (new.task -> 'settings' ->> 'seed')::bigint;
    end if;
    return new;
end
$$;

create trigger copy_what_samples_are_found_by before insert on job for each row
    when (new.kind = 'sample') execute function copy_what_samples_are_found_by();

-- What is there already is only written in another way: that is no change of a job.
alter table job disable trigger user;
update job
set sample_prompt = lower(task ->> 'prompt'),
    sample_seed = case when (task -> 'settings' ->> 'seed')::numeric < 9223372036854775808
        then (task -> 'settings' ->> 'seed')::bigint end
where kind = 'sample';
alter table job enable trigger user;

create index job_sample_by_seed on job (project_id, sample_seed, job_id) where sample_seed is not null;
