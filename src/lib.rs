//! vstar teaches a text-to-image model a user's own concepts and serves images of them.
//!
//! Uploaded photos belong to a **concept**, a **training** turns them into a **delta**, deltas are **merged**, and
//! the base model with a delta draws **samples**. Every layer spells the same nouns:
//!
//! - [`domain`]: the nouns and their rules, no I/O;
//! - [`engine`]: Stable Diffusion and Custom Diffusion; works without the rest of the service;
//! - [`http`]: requests in, responses out;
//! - [`app`]: what the service can do, one verb per request;
//! - [`worker`]: takes a job, feeds the engine, records the result;
//! - [`db`]: the catalog in Postgres, the only place with SQL;
//! - [`storage`]: photos, deltas and pictures in an object store;
//! - [`merge_desk`]: what the API answers about deltas by itself;
//! - [`picture`]: a drawn picture as a PNG that carries its manifest; [`replay`] draws it again, as a client;
//! - [`postgres`]: the private database where none is given;
//! - [`serve`] and [`config`]: all of it, put together;
//! - [`demo`]: the main job from end to end, as a client;
//! - [`allocator`]: how long freed memory is kept.

pub mod allocator;
pub mod app;
pub mod bench;
pub mod client;
pub mod config;
pub mod db;
pub mod demo;
pub mod domain;
pub mod engine;
pub mod http;
pub mod image_file;
pub mod merge_desk;
pub mod postgres;
pub mod replay;
pub mod serve;
pub mod storage;
pub mod worker;
