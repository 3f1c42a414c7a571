//! The service from outside: real HTTP on a real Postgres, objects in memory.
//!
//! `DATABASE_URL` names a server on which the tests may create databases; each test has one of its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod access;
mod batching;
mod bounds;
mod checkpoints;
mod class_image_sets;
mod compositions;
mod concepts;
mod deletions;
mod described;
mod docs;
mod downloads;
mod dry_runs;
mod end_to_end;
mod entity_tags;
mod errors;
mod evaluations;
mod events;
mod faults;
mod faulty_store;
mod gc;
mod gzip;
mod harness;
mod idempotency;
mod image_sets;
mod labels;
mod lists;
mod lost_objects;
mod merges;
mod methods;
mod observability;
mod openai;
mod openapi;
mod outages;
mod overload;
mod photo_checks;
mod photos;
mod preferences;
mod presigned_uploads;
mod processes;
mod promotions;
mod queue;
mod regularization;
mod replay;
mod requests_refused;
mod samples;
mod search;
mod stored;
mod supervision;
#[path = "../../benches/serving/concepts.rs"]
mod synthetic;
mod thumbnails;
mod training_previews;
mod trainings;
mod upgrade;
mod waiting;
mod warnings;
mod web;
mod webhooks;
