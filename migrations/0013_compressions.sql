-- Compressions: jobs that make a smaller delta of another.

alter table job drop constraint job_kind_is_known;
alter table job add constraint job_kind_is_known
    check (kind in ('training', 'merge', 'sample', 'evaluation', 'compression'));
