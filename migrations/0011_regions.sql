-- Where the concepts of a composed image were drawn: a list of concepts and boxes.

alter table image add regions jsonb;
