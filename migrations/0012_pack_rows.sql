-- Merge packs say which of their rows are the paper's constraints, and which names follow another thing's. Workers make those of
-- earlier deltas again when they start. Tasks keep naming the packs that they were given.
update delta set pack_key = null, pack_error = null;
