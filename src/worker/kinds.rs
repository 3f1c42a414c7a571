//! The kinds of jobs: one file each.

pub(super) mod merge;
pub(super) mod sample;
pub(super) mod training;
