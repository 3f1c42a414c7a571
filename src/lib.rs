//! vstar teaches a text-to-image model a user's own concepts and serves images of them.
//!
//! Uploaded photos belong to a **concept**, a **training** turns them into a **delta**, deltas are **merged**, and
//! the base model with a delta generates **samples**. Every layer spells the same nouns.
//!
//! From a request to a job and its result:
//!
//! - [`domain`]: the nouns and their rules, without I/O. Every other module may use it.
//! - [`http`]: requests in, responses out, and the OpenAPI document. A handler calls one verb of `app`.
//! - [`app`]: what the service can do, one file per noun. It decides, and queues what takes longer than a request as a job.
//! - [`worker`]: leases jobs, runs them on the thread that owns its device, and records the results.
//! - [`engine`]: Stable Diffusion and Custom Diffusion. It is synchronous and works without the rest of the service.
//!
//! What they keep, and where:
//!
//! - [`db`]: the catalog and the queue in Postgres, the only place with SQL.
//! - [`webhook_sender`]: tells receivers of what has happened, beside the API.
//! - [`reaper`]: takes back the jobs of workers that were lost, in every process.
//! - [`storage`]: photos, class images, deltas and generated images in an object store.
//! - [`delta_store`]: deltas, merge packs and regularization statistics, cached by `byte_cache`. API and worker share it.
//! - [`model_folder`] and [`class_images`]: what is known of a base model's folder without its weights.
//! - [`evaluator`]: the CLIP model that compares images and texts, without tensors. API and worker have a handle to it.
//! - `contact_sheet` and [`plot`]: images on one sheet, and figures as SVG.
//! - [`scoring`]: figures of an evaluation from features, with their intervals.
//! - `image_archive`: an uploaded zip archive as captioned images. `text_index`: captions as vectors, to find similar ones.
//! - [`photo_file`]: an image file of a user as upright sRGB pixels.
//! - [`thumbnails`]: small copies of images, cached by `byte_cache`.
//! - [`image_file`]: a generated image as a PNG that carries its manifest.
//!
//! The program around them:
//!
//! - [`config`]: every setting. [`serve`] puts the service together from them.
//! - [`shutdown`]: the phases in which a process ends.
//! - [`gc`]: deletes objects that nothing refers to, and reports rows whose object is gone.
//! - [`postgres`]: the private database server that runs if no database is given.
//! - [`client`]: an HTTP client of the service. [`cli`] is the command line around it, [`demo`] does the main job from end to
//!   end with it, and [`tables`] makes the paper's tables. [`stdout`]: results that end quietly when nobody reads them.
//! - [`mod@bench`]: one piece of the engine's work, timed.
//! - [`counters`]: what this process has counted since it began. [`metrics`]: the same and the queue, as Prometheus reads it.
//! - [`telemetry`]: how log lines are written, and where spans are sent.
//! - [`request_context`]: the request that a task serves.
//! - [`allocator`]: how long freed memory is kept. `few_threads`: the threads for work that takes much of it for a moment.
//!
//! `docs/architecture.md` says which module may use which others, and where to find what.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "an option of the allocator is set through its C interface")]
pub mod allocator;
pub mod app;
pub mod bench;
mod byte_cache;
pub mod class_images;
pub mod cli;
pub mod client;
pub mod config;
mod contact_sheet;
pub mod counters;
pub mod db;
pub mod delta_store;
pub mod demo;
pub mod domain;
pub mod engine;
pub mod evaluator;
mod few_threads;
pub mod gc;
pub mod http;
mod image_archive;
pub mod image_file;
pub mod metrics;
pub mod model_folder;
pub mod photo_file;
pub mod plot;
#[expect(unsafe_code, reason = "locks, namespaces and signals are system calls")]
pub mod postgres;
pub mod reaper;
pub mod request_context;
pub mod scoring;
pub mod serve;
pub mod shutdown;
pub mod stdout;
pub mod storage;
pub mod tables;
pub mod telemetry;
pub mod text_index;
pub mod thumbnails;
pub mod webhook_sender;
pub mod worker;
