//! The nouns of vstar and their rules, without any I/O.
//!
//! A request is parsed once, at the edge. From there on, the types here prove that it is valid.

pub mod access;
pub mod base_model;
pub mod caption;
pub mod checkpoint;
pub mod code;
pub mod composition;
pub mod compression;
pub mod concept;
pub mod delta;
pub mod delta_use;
pub mod digest;
pub mod evaluation;
pub mod evaluator_info;
pub mod git_lfs;
pub mod id;
pub mod image;
pub mod image_set;
pub mod invalid;
pub mod job;
pub mod labelled;
pub mod manifest;
pub mod merge;
pub mod model_info;
pub mod number;
pub mod page;
pub mod photo;
pub mod preference;
pub mod promotion;
pub mod record;
pub mod regularization;
pub mod sample;
pub mod scheduler;
pub mod search;
pub mod storage_key;
pub mod training;
pub mod training_preview;
pub mod training_report;
pub mod upload;
pub mod version;
pub mod warning;
pub mod webhook;
