-- Image sets: captioned images under one digest. The files of a set are one object; several rows may name it.

create table image_set (
    image_set_id uuid primary key,
    name text not null,
    source text not null,
    digest text not null,
    size_bytes bigint not null,
    image_count integer not null,
    caption_count integer not null,
    verdicts jsonb not null default '[]',
    -- How it was generated, and the digest of that, by which it is found again.
    generation jsonb,
    generation_digest text,
    created_at timestamptz not null default now(),
    constraint image_set_source_is_known check (source in ('uploaded', 'generated', 'base_model')),
    constraint a_generated_set_says_how check ((source = 'generated') = (generation is not null)),
    constraint a_generation_has_a_digest check ((generation is null) = (generation_digest is null)),
    constraint an_image_set_has_images check (image_count > 0),
    constraint no_more_captions_than_images check (caption_count between 0 and image_count),
    constraint image_set_is_generated_once unique (generation_digest)
);

create unique index image_set_of_a_base_model on image_set (digest) where source = 'base_model';
create index image_set_by_digest on image_set (digest, image_set_id);

create table image_set_image (
    image_set_id uuid not null references image_set on delete cascade,
    index integer not null,
    path text not null,
    caption text not null, -- empty for none
    sha256 text not null,
    -- Where the file is in the set's object.
    position bigint not null,
    size_bytes bigint not null,
    primary key (image_set_id, index)
);
