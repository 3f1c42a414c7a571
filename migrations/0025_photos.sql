-- What is known about a photo beside its pixels: its caption, its subject mask, and what was measured of it.
--
-- Photos that an earlier version has added have no row here until they are checked or described.

create table photo (
    image_id uuid primary key references image on delete cascade,
    project_id uuid not null default '00000000-0000-0000-0000-000000000000',
    -- As it was given; how it enters a training is for the program to say.
    caption text,
    -- Names the mask's object beside those of the photos. A new mask has a new one, since objects never change.
    mask_id uuid,
    mask_sha256 text,
    mask_size_bytes bigint,
    -- What was measured of the pixels, and the photo in 16 x 16 levels of gray. Verdicts are made from them when they are asked for.
    measures jsonb,
    thumbnail bytea,
    constraint a_mask_is_whole check (
        (mask_id is null) = (mask_sha256 is null) and (mask_id is null) = (mask_size_bytes is null)
    ),
    constraint a_photo_is_measured_whole check ((measures is null) = (thumbnail is null))
);

create unique index photo_mask on photo (mask_id) where mask_id is not null;

-- A photo belongs to the project of its image: here, so that no statement can forget it.
create function give_photo_its_project() returns trigger language plpgsql as $$
begin
    new.project_id = coalesce((select project_id from image where image_id = new.image_id), new.project_id);
    return new;
end
$$;

create trigger give_photo_its_project before insert on photo for each row execute function give_photo_its_project();
