//! Faults: real processes that are killed, frozen, cut off and run out of space, and what must hold afterwards.
//!
//! Nothing is simulated. The program is the one that was built; Postgres and the S3 server are servers of their own, which the
//! tests kill as well. By default each fault happens once or a few times. `make test-faults` lets it happen as often as
//! docs/reliability.md says, and writes that table:
//!
//! | variable | meaning |
//! |---|---|
//! | `VSTAR_FAULT_ROUNDS` | rounds of each fault, or `all`; 1 if not set |
//! | `VSTAR_FAULT_RESUME` | if set, rounds that this program has passed already are not run again |
//! | `VSTAR_FAULT_PROGRAM` | another program than the one that was built with the tests |
//! | `VSTAR_FAULT_SEED` | chooses the random moments; 1 if not set |
//!
//! Rounds are written to `target/faults/rounds.jsonl`, the table to `target/faults/table.md`, what the processes logged to
//! `target/faults/logs`. The usual arguments of a test program choose faults by name.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod api;
mod checkpoints;
mod client;
mod clock;
mod database;
mod disk;
mod drain;
mod frozen;
mod gc;
mod mixed;
mod poison;
mod postgres;
mod process;
mod program;
#[expect(dead_code, reason = "other test programs use the rest of it")]
#[path = "../support/proxy.rs"]
mod proxy;
mod report;
mod sampling;
mod store;
mod stores;
mod training;
mod upgrade;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::report::{Fault, Run};

/// What makes a fault happen and looks at what is left.
type Runner = fn(Run) -> Result<(), Failed>;

/// A fault, and how often it has to be survived.
macro_rules! faults {
    ($($name:literal, $what:literal, $must:literal, $times:literal, $function:path;)*) => {
        [$((
            Fault { name: $name, what: $what, must: $must, times: $times },
            (|run: Run| block_on($function(run))) as Runner,
        )),*]
    };
}

fn main() -> ExitCode {
    let faults: Vec<(Fault, Runner)> = Vec::from(faults! {
        "training_killed", "kill -9 of a worker at a random moment of a training",
            "ends once, delta bytes equal, whole curve, no more steps repeated than a checkpoint interval", 20, training::killed;
        "training_terminated", "SIGTERM of a worker in a training, restart",
            "no step repeated, delta bytes equal, exit in time", 10, training::terminated;
        "training_killed_at_a_checkpoint", "kill -9 of a worker while it writes a checkpoint",
            "goes on from the newest whole one, delta bytes equal", 20, checkpoints::killed_at_write;
        "checkpoint_damaged", "newest checkpoint cut in half, a byte of it flipped, removed; all of them removed",
            "goes on from the newest whole one or says why not, delta bytes equal", 4, checkpoints::damaged;
        "sampling_killed", "kill -9 of a worker while it samples a batch",
            "every sample ends once, images equal", 50, sampling::killed;
        "worker_frozen", "SIGSTOP of a worker past its lease, then SIGCONT",
            "the late worker writes nothing and says so", 10, frozen::past_its_lease;
        "worker_drained", "SIGTERM of a worker whose samples take longer than a lease",
            "one end, images equal, exit in time", 3, drain::longer_than_the_lease;
        "second_sigterm", "a second SIGTERM in the drain",
            "ends at once, delta bytes equal", 3, drain::second_sigterm;
        "same_name", "kill -9 of a worker, restart under the same name within its lease",
            "taken up once, delta bytes equal", 3, frozen::restarted_under_its_name;
        "api_killed", "kill -9 of the API during uploads and creates",
            "every acknowledged request is there, no half concept", 30, api::killed;
        "postgres_killed", "kill -9 of Postgres, restart after 10 s",
            "workers and API recover, no training from step 0, delta bytes equal", 5, database::killed;
        "store_unreachable", "object store unreachable for 60 s",
            "jobs not failed, uploads answer 503 with Retry-After, delta bytes equal", 5, stores::unreachable;
        "store_slow", "object store slow (each chunk 300 ms late)",
            "all works, delta bytes equal", 5, stores::slow;
        "store_cut", "connections to the object store cut in mid-object",
            "jobs not failed, no half upload, delta bytes equal", 5, stores::cut;
        "disk_full_objects", "disk full under the local object store",
            "clear error, nothing corrupt, works again", 1, disk::full_store;
        "disk_full_postgres", "disk full under the private Postgres",
            "clear error, nothing corrupt, works again", 1, disk::full_postgres;
        "job_kills_its_worker", "a job that always kills its worker",
            "failed after its attempts with each one's reason, others end well", 1, poison::kills_each_worker;
        "no_worker_left", "last attempt killed; a canceled job's worker killed; no worker alive",
            "ends as failed or canceled all the same", 1, poison::nobody_left;
        "clock_off", "clock of a worker 1 h ahead, of another 1 h behind",
            "no effect: database time only", 1, clock::an_hour_off;
        "upgraded", "database and objects of version 0.1.0 with jobs running",
            "upgraded in place, every job ends", 1, upgrade::in_place;
        "gc_beside_writers", "gc with 5 s of grace in a loop beside uploads and trainings",
            "nothing that is referenced goes", 1, gc::beside_writers;
        "mixed_load", "20 trainings and 500 samples on two workers, one killed every 10 s for 5 minutes",
            "nothing lost, nothing doubled, delta bytes equal", 1, mixed::load;
    });
    let (names, mut arguments) = arguments();
    // The machine's cores are the limit: a fault that waits for a lease leaves them to the others.
    arguments.test_threads.get_or_insert(if report::is_long() { 1 } else { 3 });
    let chosen = |fault: &Fault| {
        let is_named = |name: &String| match arguments.exact {
            true => fault.name == name,
            false => fault.name.contains(name.as_str()),
        };
        names.is_empty() || names.iter().any(is_named)
    };
    let trials = faults.iter().filter(|(fault, _)| chosen(fault)).map(|(fault, run)| {
        let (fault, run) = (*fault, *run);
        Trial::test(fault.name, move || run(Run::new(fault)))
    });
    let trials = trials.collect();
    arguments.exact = false; // what is left is what was named
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        let order: Vec<Fault> = faults.iter().map(|(fault, _)| *fault).collect();
        report::write_table(&order).expect("the table is written");
    }
    conclusion.exit_code()
}

/// The arguments of a test program, with any number of names.
fn arguments() -> (Vec<String>, Arguments) {
    let (options, names): (Vec<String>, Vec<String>) =
        std::env::args().partition(|argument| argument.starts_with('-') || argument.contains('/'));
    (names, Arguments::from_iter(options))
}

/// Runs a fault on a runtime of its own. Processes are started by this thread, with whose end they end.
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failed> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(work).map_err(|error| Failed::from(format!("{error:#}")))
}
