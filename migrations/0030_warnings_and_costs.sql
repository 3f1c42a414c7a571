-- What requests were accepted with, and what their jobs cost. Earlier versions of the program write neither, and read neither.

-- What a request was accepted with although its result may suffer from it: a list of code, pointer and detail. Samples of
-- earlier versions have theirs in their task.
alter table job add column warnings jsonb not null default '[]';

-- Estimated seconds of work, of which the wait in the queue is forecast. Null for jobs of earlier versions.
alter table job add column cost double precision;

-- Concepts whose class noun a prompt has.
create index concept_by_class_noun on concept (lower(class_noun));
