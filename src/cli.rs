//! `vstar` as a client of a service: concepts, trainings, images and what belongs to them, from a terminal or a script.
//!
//! Every command takes the service's address (`--server` or `VSTAR_URL`) and the caller's key (`VSTAR_API_KEY`). On a terminal it
//! shows tables and bars. In a pipe standard output has ids alone, and with `--json` the service's answers as they came;
//! progress goes to standard error. `exit` says what each exit status means.

mod access;
mod check;
mod concepts;
mod deltas;
mod doctor;
mod edit;
mod evaluate;
pub mod exit;
mod help;
mod interrupt;
mod job;
mod list;
mod merge;
mod naming;
pub mod number;
mod output;
mod progress;
mod queue;
mod replay;
mod sample;
mod session;
mod shell;
mod train;
mod watch;
mod webhooks;

use anyhow::Result;
use clap::Subcommand;

pub use self::help::grouped;
pub use self::shell::{CompletionsArgs, ManArgs, completions, man};

/// The commands that ask a service for something.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Creates, shows, changes and deletes concepts and their photos.
    Concepts(concepts::ConceptsArgs),
    /// Teaches concepts from their photos.
    Train(train::TrainArgs),
    /// Generates images and saves them.
    Sample(Box<sample::SampleArgs>),
    /// Merges the deltas of several concepts into one.
    Merge(merge::MergeArgs),
    /// Says how good a concept's photos are, or how well several concepts go together.
    Check(check::CheckArgs),
    /// Compares deltas, merges and the base model on prompts, and saves figures, a contact sheet and plots.
    Evaluate(Box<evaluate::EvaluateArgs>),
    /// Generates an image again from the manifest that its PNG carries.
    Replay(replay::ReplayArgs),
    /// Follows a job until it has ended.
    Watch(watch::WatchArgs),
    /// Cancels jobs.
    Cancel(queue::CancelArgs),
    /// Shows what runs and what waits.
    Queue(queue::QueueArgs),
    /// Shows, downloads and deletes deltas, the results of trainings and merges.
    Deltas(deltas::DeltasArgs),
    /// Makes, shows, renews and deletes API keys.
    Keys(access::KeysArgs),
    /// Manages webhook endpoints and shows what was delivered.
    Webhooks(webhooks::WebhooksArgs),
    /// Says what is missing on this machine to run a service, and what to do about it.
    Doctor(Box<doctor::DoctorArgs>),
}

/// Runs a command.
///
/// # Errors
/// What [`exit::report`] shows and turns into an exit status.
pub async fn run(command: ClientCommand) -> Result<()> {
    match command {
        ClientCommand::Concepts(args) => concepts::run(args).await,
        ClientCommand::Train(args) => train::run(args).await,
        ClientCommand::Sample(args) => sample::run(*args).await,
        ClientCommand::Merge(args) => merge::run(args).await,
        ClientCommand::Check(args) => check::run(args).await,
        ClientCommand::Evaluate(args) => evaluate::run(*args).await,
        ClientCommand::Replay(args) => replay::run(args).await,
        ClientCommand::Watch(args) => watch::run(args).await,
        ClientCommand::Cancel(args) => queue::cancel(args).await,
        ClientCommand::Queue(args) => queue::run(args).await,
        ClientCommand::Deltas(args) => deltas::run(args).await,
        ClientCommand::Keys(args) => access::run(args).await,
        ClientCommand::Webhooks(args) => webhooks::run(args).await,
        ClientCommand::Doctor(args) => doctor::run(*args).await,
    }
}
