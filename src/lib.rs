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
//! - [`storage`]: photos, deltas and images in an object store;
//! - [`delta_store`]: deltas, merge packs and regularization statistics, cached; what the API answers about them by itself;
//! - [`model_folder`] and [`class_images`]: the base model's folder as it is known without its weights;
//! - [`image_file`]: a generated image as a PNG that carries its manifest; [`replay`] generates it again, as a client;
//! - [`postgres`]: the private database where none is given;
//! - [`serve`] and [`config`]: all of it, put together;
//! - [`demo`]: the main job from end to end, as a client;
//! - [`allocator`]: how long freed memory is kept.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "an option of the allocator is set through its C interface")]
pub mod allocator;
pub mod app;
pub mod bench;
mod byte_cache;
pub mod class_images;
pub mod client;
pub mod config;
pub mod db;
pub mod delta_store;
pub mod demo;
pub mod domain;
pub mod engine;
pub mod http;
pub mod image_file;
pub mod model_folder;
#[expect(unsafe_code, reason = "locks, namespaces and signals are system calls")]
pub mod postgres;
pub mod replay;
pub mod serve;
pub mod storage;
pub mod worker;
