//! `vstar` as a client of a service: concepts, trainings, images and what belongs to them, from a terminal or a script.
//!
//! Every command takes the service's address (`--server` or `VSTAR_URL`) and the caller's key (`VSTAR_API_KEY`). On a terminal it
//! shows tables and bars. In a pipe standard output has ids alone, and with `--json` the service's answers as they came;
//! progress goes to standard error. `exit` says what each exit status means.

mod access;
mod body;
mod check;
mod concepts;
mod deltas;
mod doctor;
mod each;
mod edit;
mod evaluate;
pub mod exit;
mod help;
mod input;
mod interrupt;
mod job;
mod list;
mod merge;
mod naming;
pub mod number;
mod output;
mod place;
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

use self::session::Asking;

pub use self::help::grouped;
pub use self::session::LeadingOptions;
pub use self::shell::{CompletionsArgs, ManArgs, completions, man};

/// The commands that ask a service for something.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Creates, shows, changes and deletes concepts and their photos.
    Concepts(Asking<concepts::ConceptsArgs>),
    /// Teaches concepts from their photos.
    Train(Asking<train::TrainArgs>),
    /// Generates images and saves them.
    Sample(Box<Asking<sample::SampleArgs>>),
    /// Merges the deltas of several concepts into one.
    Merge(Asking<merge::MergeArgs>),
    /// Says how good a concept's photos are, or how well several concepts go together.
    Check(Asking<check::CheckArgs>),
    /// Compares deltas, merges and the base model on prompts, and saves figures, a contact sheet and plots.
    Evaluate(Box<Asking<evaluate::EvaluateArgs>>),
    /// Generates an image again from the manifest that its PNG carries.
    Replay(Asking<replay::ReplayArgs>),
    /// Follows a job until it has ended.
    Watch(Asking<watch::WatchArgs>),
    /// Cancels jobs.
    Cancel(Asking<queue::CancelArgs>),
    /// Shows what runs and what waits.
    Queue(Asking<queue::QueueArgs>),
    /// Shows, downloads, compresses and deletes deltas, the results of trainings and merges.
    Deltas(Asking<deltas::DeltasArgs>),
    /// Makes, shows, renews and deletes API keys.
    Keys(Asking<access::KeysArgs>),
    /// Manages webhook endpoints and shows what was delivered.
    Webhooks(Asking<webhooks::WebhooksArgs>),
    /// Says what is missing on this machine to run a service, and what to do about it.
    Doctor(Box<Asking<doctor::DoctorArgs>>),
}

/// Runs a command.
///
/// - `leading`: options that stand before the command
///
/// # Errors
/// What [`exit::report`] shows and turns into an exit status.
pub async fn run(command: ClientCommand, leading: &LeadingOptions) -> Result<()> {
    match command {
        ClientCommand::Concepts(asking) => asking.run(leading, concepts::run).await,
        ClientCommand::Train(asking) => asking.run(leading, train::run).await,
        ClientCommand::Sample(asking) => asking.run(leading, sample::run).await,
        ClientCommand::Merge(asking) => asking.run(leading, merge::run).await,
        ClientCommand::Check(asking) => asking.run(leading, check::run).await,
        ClientCommand::Evaluate(asking) => asking.run(leading, evaluate::run).await,
        ClientCommand::Replay(asking) => asking.run(leading, replay::run).await,
        ClientCommand::Watch(asking) => asking.run(leading, watch::run).await,
        ClientCommand::Cancel(asking) => asking.run(leading, queue::cancel).await,
        ClientCommand::Queue(asking) => asking.run(leading, queue::run).await,
        ClientCommand::Deltas(asking) => asking.run(leading, deltas::run).await,
        ClientCommand::Keys(asking) => asking.run(leading, access::run).await,
        ClientCommand::Webhooks(asking) => asking.run(leading, webhooks::run).await,
        ClientCommand::Doctor(asking) => asking.run(leading, doctor::run).await,
    }
}
