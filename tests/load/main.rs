//! Load: a real server process on this machine, and as many clients as a frontend with many users has.
//!
//! `make test-load` runs all of it and writes the table of docs/load.md to `target/load/table.md`. The arguments choose what runs:
//! `polling`, `uploads`, `streams`, `latency`. It takes minutes and the whole machine, so nothing runs without an argument. The program
//! fails if a target is missed. What the server logged is in `target/load`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod api;
mod connection;
mod latency;
mod polling;
mod server;
mod streams;
mod table;
mod uploads;

use std::process::ExitCode;

use crate::table::Row;

fn main() -> ExitCode {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if wanted.is_empty() {
        println!("nothing is chosen: make test-load");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut rows: Vec<Row> = Vec::new();
    for name in ["polling", "uploads", "streams", "latency"] {
        if !wanted.iter().any(|one| one == name) {
            continue;
        }
        println!("{name}");
        let measured = runtime.block_on(async {
            match name {
                "polling" => polling::run().await,
                "uploads" => uploads::run().await,
                "streams" => streams::run().await,
                _ => latency::run().await,
            }
        });
        for row in &measured {
            println!("  {row}");
        }
        rows.extend(measured);
    }
    table::write(&rows);
    match rows.iter().all(Row::holds) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
