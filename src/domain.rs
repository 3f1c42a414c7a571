//! The nouns of vstar and their rules, without any I/O.

pub mod concept;
pub mod sample;
pub mod training;
