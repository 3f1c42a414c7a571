//! Requests in, responses out: one file per resource.
//!
//! A handler validates, runs one transaction and answers. Whatever takes longer is a job for a worker; whatever needs
//! a tensor is the engine's.

mod binding;
mod body;
mod capabilities;
mod concept;
mod content;
mod delta;
mod error;
mod event;
mod extract;
mod health;
mod image;
mod job;
mod manifest;
mod merge;
mod photo;
mod preview;
mod router;
mod sample;
mod training;
mod upload;

pub use router::{openapi, router};
