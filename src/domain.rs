//! The nouns of vstar and their rules, without any I/O.

pub mod base_model;
pub mod concept;
pub mod sample;
pub mod training;
