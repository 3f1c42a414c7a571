-- Batches of samples: how much a job takes of one, when it began there, and how fast jobs of a kind go.

-- The most rows that the job takes in one call of the UNet.
alter table job add column rows integer not null default 1;
alter table job add constraint a_job_takes_at_least_one_row check (rows > 0);

alter table job add column first_step_at timestamptz;

create index job_finished on job (kind, finished_at) where finished_at is not null;
