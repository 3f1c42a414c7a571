//! The `vstar` program: subcommands, nothing else.

#![deny(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use vstar::bench::BenchArgs;
use vstar::cli::{ClientCommand, CompletionsArgs, LeadingOptions, ManArgs, exit};
use vstar::config::{ByteSize, ServeSettings, Settings};
use vstar::demo::{DemoArgs, MergingSheetArgs};
use vstar::engine::ops::InstructionSet;
use vstar::gc::GcOptions;
use vstar::postgres::PrivatePostgres;
use vstar::tables::TablesArgs;
use vstar::telemetry::{LogFormat, Telemetry};
use vstar::{allocator, bench, cli, demo, http, serve, stdout, tables};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Teaches a text-to-image model your own concepts, and serves images of them.
#[derive(Parser)]
#[command(name = "vstar", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    leading: LeadingOptions,
    /// The same as after the command.
    #[arg(long, value_enum, hide = true)]
    log_format: Option<LogFormat>,
}

/// A command that writes log lines.
#[derive(Args)]
struct Logging<A: Args> {
    #[command(flatten)]
    args: A,
    /// How log lines are written; RUST_LOG says which.
    #[arg(long, env = "VSTAR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Client(ClientCommand),
    /// Serves the API, with a worker in the same process unless --no-worker says otherwise.
    Serve(Logging<ServeSettings>),
    /// Runs jobs of a service that runs in another process; one worker per device.
    Work(Logging<Settings>),
    /// Teaches two concepts from photos and generates images of them, as a client of a service of its own.
    Demo(Logging<DemoArgs>),
    /// Makes the paper's tables on the base model's own concepts, as a client of a service of its own.
    Tables(Logging<TablesArgs>),
    /// Shows merges of trained deltas on one sheet.
    MergingSheet(MergingSheetArgs),
    /// Brings the database's tables up to date.
    Migrate(Logging<Settings>),
    /// Deletes objects that nothing refers to, and reports rows whose object is gone. Safe beside a running service.
    Gc(Logging<GcArgs>),
    /// Makes a key that may do everything, and prints it: for whoever has lost the first one. A service that runs stays up.
    AdminKey(Logging<AdminKeyArgs>),
    /// Prints the API's OpenAPI document.
    Openapi,
    /// Prints the instruction sets that kernels exist for and this CPU has, the best last.
    #[command(hide = true)]
    InstructionSets,
    /// Times one piece of the engine's work.
    Bench(BenchArgs),
    /// Prints a script by which a shell completes commands and options.
    Completions(CompletionsArgs),
    /// Writes manual pages.
    Man(ManArgs),
    /// Runs a command with DATABASE_URL set to an empty Postgres that is deleted afterwards.
    #[command(hide = true)]
    WithPostgres {
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Args)]
struct GcArgs {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    options: GcOptions,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct AdminKeyArgs {
    #[command(flatten)]
    settings: Settings,
    /// What keys are stored with: as for `serve`.
    #[arg(long, env = "VSTAR_KEY_PEPPER", hide_env_values = true, value_name = "SECRET")]
    key_pepper: Option<String>,
}

/// How long freed memory is kept. With a memory budget of 0 it is returned at once, and likewise by an API without a
/// worker: it takes no steps of a network, and what one upload frees is rarely what the next needs.
fn kept_memory(command: &Command) -> Duration {
    let budget = match command {
        Command::Serve(logging) if logging.args.no_worker => Some(ByteSize(0)),
        Command::Serve(logging) => logging.args.common.worker.memory_budget,
        Command::Work(logging) => logging.args.worker.memory_budget,
        Command::Bench(args) => args.memory_budget,
        Command::Demo(_)
        | Command::MergingSheet(_)
        | Command::Client(_)
        | Command::Tables(_)
        | Command::Migrate(_)
        | Command::Gc(_)
        | Command::AdminKey(_)
        | Command::Openapi
        | Command::Completions(_)
        | Command::Man(_)
        | Command::InstructionSets
        | Command::WithPostgres { .. } => None,
    };
    if budget == Some(ByteSize(0)) { Duration::ZERO } else { allocator::KEPT }
}

#[expect(unsafe_code, reason = "a variable of the environment is set before any thread exists")]
fn main() -> ExitCode {
    // candle's helper threads spin while they wait and compete with ours for the cores (ADR 0002).
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: no other thread exists yet.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    let cli = match parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    if let Err(error) = InstructionSet::wanted() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    allow_open_files();
    allocator::keep_freed_memory(kept_memory(&cli.command));
    let log_format = cli.log_format.or(log_format(&cli.command)).unwrap_or(LogFormat::Text);
    let telemetry = Telemetry::start(log_format, default_lines(&cli.command));
    match telemetry.and_then(|_telemetry| run(cli.command, &cli.leading)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

/// Reads the command line; otherwise says what is wrong with it, or the help that it asks for.
fn parse() -> Result<Cli, ExitCode> {
    let parsed = cli::grouped(Cli::command()).try_get_matches();
    let read = parsed.and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        cli.check_leading(matches.subcommand_name().unwrap_or_default())?;
        Ok(cli)
    });
    let error = match read {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render();
            let shown = match stdout::takes_colors() {
                true => stdout::print(&text.ansi().to_string()),
                false => stdout::print(&text.to_string()),
            };
            Err(shown.map_or_else(|error| exit::report(&error), |()| ExitCode::SUCCESS))
        }
        _ => {
            let _ = error.print();
            Err(ExitCode::from(2))
        }
    }
}

impl Cli {
    /// # Errors
    /// If an option before the command is not one of the command's own.
    fn check_leading(&self, command: &str) -> Result<(), clap::Error> {
        let is_client = matches!(self.command, Command::Client(_));
        let (option, owners) = match (self.leading.given(), self.log_format) {
            (Some(option), _) if !is_client => (option, "commands that ask a service"),
            (_, Some(_)) if log_format(&self.command).is_none() => {
                ("--log-format", "commands that write log lines")
            }
            _ => return Ok(()),
        };
        let message = format!(
            "{option} is an option of {owners}, not of `{command}`: `vstar help {command}` lists those"
        );
        Err(cli::grouped(Self::command()).error(ErrorKind::ArgumentConflict, message))
    }
}

/// How log lines are written; `None` for a command that writes none.
fn log_format(command: &Command) -> Option<LogFormat> {
    match command {
        Command::Serve(logging) => Some(logging.log_format),
        Command::Work(logging) | Command::Migrate(logging) => Some(logging.log_format),
        Command::Demo(logging) => Some(logging.log_format),
        Command::Tables(logging) => Some(logging.log_format),
        Command::Gc(logging) => Some(logging.log_format),
        Command::AdminKey(logging) => Some(logging.log_format),
        Command::Client(_)
        | Command::MergingSheet(_)
        | Command::Openapi
        | Command::InstructionSets
        | Command::Bench(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::WithPostgres { .. } => None,
    }
}

/// Raises the number of open files as far as the system lets us: every connection is one.
#[expect(unsafe_code, reason = "the limit is read and set by system calls")]
fn allow_open_files() {
    const ENOUGH: libc::rlim_t = 65_536;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is ours and lives through both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < ENOUGH {
            limit.rlim_cur = limit.rlim_max.min(ENOUGH);
            // Where it fails, the smaller limit stays.
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

fn run(command: Command, leading: &LeadingOptions) -> anyhow::Result<()> {
    match command {
        Command::Client(command) => {
            let runtime = runtime()?;
            let done = runtime.block_on(cli::run(command, leading));
            // A thread that still waits for an answer at the terminal is not waited for.
            runtime.shutdown_background();
            done
        }
        Command::Serve(logging) => block_on(serve::serve(&logging.args)),
        Command::Work(logging) => block_on(serve::work(&logging.args)),
        Command::Demo(logging) => block_on(demo::run(&logging.args)),
        Command::Tables(logging) => block_on(tables::run(&logging.args)),
        Command::MergingSheet(args) => demo::draw_merging_sheet(&args),
        Command::Migrate(logging) => block_on(serve::migrate(&logging.args)),
        Command::Gc(Logging { args: GcArgs { settings, options, json }, .. }) => {
            let report = block_on(serve::collect_garbage(&settings, &options))?;
            match json {
                true => stdout::line(&serde_json::to_string_pretty(&report)?),
                false => stdout::print(&report.to_string()),
            }
        }
        Command::AdminKey(Logging { args: AdminKeyArgs { settings, key_pepper }, .. }) => {
            stdout::line(&block_on(serve::issue_admin_key(&settings, key_pepper.as_deref()))?)
        }
        Command::Openapi => stdout::line(&http::openapi().to_pretty_json()?),
        Command::Completions(args) => cli::completions(cli::grouped(Cli::command()), &args),
        Command::Man(args) => cli::man(Cli::command(), &args),
        Command::InstructionSets => {
            InstructionSet::available().try_for_each(|set| stdout::line(set.as_str()))
        }
        Command::Bench(args) => bench::run(&args),
        Command::WithPostgres { command } => with_postgres(&command),
    }
}

/// For tests: the server does not wait for the disk.
fn with_postgres(command: &[String]) -> anyhow::Result<()> {
    let data = tempfile::Builder::new().prefix("vstar-test-").tempdir()?;
    let server = PrivatePostgres::start(data.path(), None, false)?;
    let status = std::process::Command::new(&command[0])
        .args(&command[1..])
        .env("DATABASE_URL", server.url())
        .status()
        .with_context(|| format!("`{}` cannot be run", command[0]))?;
    drop(server);
    anyhow::ensure!(status.success(), "`{}` ended with {status}", command.join(" "));
    Ok(())
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    runtime()?.block_on(work)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Which log lines are written, if `RUST_LOG` does not say.
fn default_lines(command: &Command) -> &'static str {
    match command {
        Command::Serve(_) | Command::Work(_) => "info",
        Command::Demo(_)
        | Command::MergingSheet(_)
        | Command::Client(_)
        | Command::Tables(_)
        | Command::Migrate(_)
        | Command::Gc(_)
        | Command::AdminKey(_)
        | Command::Openapi
        | Command::Completions(_)
        | Command::Man(_)
        | Command::InstructionSets
        | Command::Bench(_)
        | Command::WithPostgres { .. } => "warn",
    }
}
