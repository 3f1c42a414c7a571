-- A delta is recorded before its merge pack is made, and stays if that fails.

-- Why there is no pack yet, for whoever wants to merge the delta; null once there is one.
alter table delta add column pack_error text;
