-- What a training has drawn of itself while it runs: small images of the same prompts, every so many steps. They stay with the
-- job, so that what was learned at each step can be looked at later. Earlier versions of the program write none.
create table training_preview (
    job_id uuid not null references job on delete cascade,
    step integer not null,
    index integer not null,
    png bytea not null,
    primary key (job_id, step, index)
);
