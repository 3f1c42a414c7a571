-- A worker that starts looks for them; usually there are none.
create index delta_without_pack on delta (base_digest, delta_id) where pack_key is null;
