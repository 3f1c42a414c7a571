//! The command line, as people and scripts use it: the program against a server that is a process of its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod exit;
mod pipes;
mod retries;
mod server;
mod story;
mod terminal;
