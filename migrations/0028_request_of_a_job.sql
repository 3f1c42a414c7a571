-- Which request asked for a job, for the log lines of whoever runs it.

alter table job add column request_id text;
-- The W3C trace that the request was part of.
alter table job add column traceparent text;
