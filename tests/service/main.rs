//! The service from outside: real HTTP on a real Postgres, objects in memory.
//!
//! `DATABASE_URL` names a server on which the tests may create databases; each test has one of its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod batching;
mod bounds;
mod checkpoints;
mod class_image_sets;
mod compositions;
mod concepts;
mod described;
mod docs;
mod downloads;
mod end_to_end;
mod errors;
mod evaluations;
mod events;
mod faults;
mod faulty_store;
mod gc;
mod harness;
mod image_sets;
mod lists;
mod lost_objects;
mod merges;
mod methods;
mod openapi;
mod outages;
mod overload;
mod photos;
mod preferences;
mod processes;
mod queue;
mod regularization;
mod replay;
mod samples;
mod stored;
mod supervision;
#[path = "../../benches/serving/concepts.rs"]
mod synthetic;
mod trainings;
mod upgrade;
mod webhooks;
