//! Tests of the engine alone.

mod merging;
mod ops;
mod training;
