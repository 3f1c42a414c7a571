-- What a merge needs of a delta is an object of its own, much smaller than the delta.

-- Deltas from before have none; a worker makes their packs anew where it needs them.
alter table delta add column pack_key text;
