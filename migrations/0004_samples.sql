-- What a sample can say, and what it was made from.
--
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
