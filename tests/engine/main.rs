//! Tests of the engine alone.

mod training;
