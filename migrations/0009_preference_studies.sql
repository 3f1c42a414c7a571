-- Preference studies: people choose between images of two subjects.

create table preference_study (
    study_id uuid primary key,
    -- What is compared and which pairs are shown; it never changes.
    definition jsonb not null,
    created_at timestamptz not null default now()
);

-- Whoever has the token can vote, once for each pair.
create table preference_link (
    token text primary key,
    study_id uuid not null references preference_study on delete cascade,
    created_at timestamptz not null default now()
);

create index preference_link_by_study on preference_link (study_id);

create table preference_vote (
    token text not null references preference_link on delete cascade,
    pair integer not null,
    criterion text not null,
    choice text not null,
    created_at timestamptz not null default now(),
    primary key (token, pair, criterion),
    constraint preference_criterion_is_known check (criterion in ('text', 'image')),
    constraint preference_choice_is_known check (choice in ('first', 'second'))
);
