//! The service from outside: real HTTP on a real Postgres, objects in memory.
//!
//! `DATABASE_URL` names a server on which the tests may create databases; each test has one of its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod batching;
mod concepts;
mod end_to_end;
mod errors;
mod events;
mod harness;
mod merges;
mod openapi;
mod overload;
mod photos;
mod queue;
mod replay;
mod samples;
mod stored;
#[path = "../../benches/serving/concepts.rs"]
mod synthetic;
mod trainings;
mod upgrade;
