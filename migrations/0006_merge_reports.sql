-- How well a merge went is kept with its job.

-- Jobs of other kinds have none, and neither have merges from before.
alter table job add column merge_report jsonb;
alter table job add constraint a_merge_report_is_of_a_merge check (merge_report is null or kind = 'merge');

comment on column job.rows is 'What the job takes of a batch, in elements of the base model''s own size.';
