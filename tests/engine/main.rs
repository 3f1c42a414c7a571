//! Tests of the engine alone.

mod merging;
mod training;
