-- Files that clients send to the object store by a signed URL, before they become photos or images.
--
-- What the URL names is only ever a file on its way: a completed upload has its image under a key that no URL names.

create table upload (
    upload_id uuid primary key,
    project_id uuid not null default '00000000-0000-0000-0000-000000000000',
    -- Whose photo it becomes; null for an image to start samples from.
    concept_id uuid references concept on delete cascade,
    caption text,
    file_name text not null,
    size_bytes bigint not null,
    sha256 text not null,
    -- The digest of the token in the URL, if this service takes the file itself.
    token_sha256 text,
    image_id uuid references image on delete set null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    completed_at timestamptz,
    constraint an_upload_is_of_some_size check (size_bytes > 0),
    constraint only_a_completed_upload_has_an_image check (image_id is null or completed_at is not null)
);

create index upload_by_concept on upload (concept_id) where concept_id is not null;
create index upload_by_image on upload (image_id) where image_id is not null;
create unique index upload_token on upload (token_sha256) where token_sha256 is not null;
