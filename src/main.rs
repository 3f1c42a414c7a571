//! The `vstar` program: subcommands, nothing else.

#![deny(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use vstar::bench::BenchArgs;
use vstar::cli::{ClientCommand, CompletionsArgs, ManArgs, exit};
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
    /// How log lines are written; RUST_LOG says which.
    #[arg(long, global = true, env = "VSTAR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Client(ClientCommand),
    /// Serves the API, with a worker in the same process unless --no-worker says otherwise.
    Serve(ServeSettings),
    /// Runs jobs of a service that runs in another process; one worker per device.
    Work(Settings),
    /// Teaches two concepts from photos and generates images of them, as a client of a service of its own.
    Demo(DemoArgs),
    /// Makes the paper's tables on the base model's own concepts, as a client of a service of its own.
    Tables(TablesArgs),
    /// Shows merges of trained deltas on one sheet.
    MergingSheet(MergingSheetArgs),
    /// Brings the database's tables up to date.
    Migrate(Settings),
    /// Deletes objects that nothing refers to, and reports rows whose object is gone. Safe beside a running service.
    Gc {
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        options: GcOptions,
        /// Prints the report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes a key that may do everything, and prints it: for whoever has lost the first one. A service that runs stays up.
    AdminKey {
        #[command(flatten)]
        settings: Settings,
        /// What keys are stored with: as for `serve`.
        #[arg(long, env = "VSTAR_KEY_PEPPER", hide_env_values = true, value_name = "SECRET")]
        key_pepper: Option<String>,
    },
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

/// How long freed memory is kept. With a memory budget of 0 it is returned at once.
fn kept_memory(command: &Command) -> Duration {
    let budget = match command {
        Command::Serve(settings) => settings.common.worker.memory_budget,
        Command::Work(settings) => settings.worker.memory_budget,
        Command::Bench(args) => args.memory_budget,
        Command::Demo(_)
        | Command::MergingSheet(_)
        | Command::Client(_)
        | Command::Tables(_)
        | Command::Migrate(_)
        | Command::Gc { .. }
        | Command::AdminKey { .. }
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
    let telemetry = Telemetry::start(cli.log_format, default_lines(&cli.command));
    match telemetry.and_then(|_telemetry| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

/// Reads the command line; otherwise says what is wrong with it, or the help that it asks for.
fn parse() -> Result<Cli, ExitCode> {
    let parsed = cli::grouped(Cli::command()).try_get_matches();
    let error = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
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

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Client(command) => {
            let runtime = runtime()?;
            let done = runtime.block_on(cli::run(command));
            // A thread that still waits for an answer at the terminal is not waited for.
            runtime.shutdown_background();
            done
        }
        Command::Serve(settings) => block_on(serve::serve(&settings)),
        Command::Work(settings) => block_on(serve::work(&settings)),
        Command::Demo(args) => block_on(demo::run(&args)),
        Command::Tables(args) => block_on(tables::run(&args)),
        Command::MergingSheet(args) => demo::draw_merging_sheet(&args),
        Command::Migrate(settings) => block_on(serve::migrate(&settings)),
        Command::Gc { settings, options, json } => {
            let report = block_on(serve::collect_garbage(&settings, &options))?;
            match json {
                true => stdout::line(&serde_json::to_string_pretty(&report)?),
                false => stdout::print(&report.to_string()),
            }
        }
        Command::AdminKey { settings, key_pepper } => {
            stdout::line(&block_on(serve::issue_admin_key(&settings, key_pepper.as_deref()))?)
        }
        Command::Openapi => stdout::line(&http::openapi().to_pretty_json()?),
        Command::Completions(args) => cli::completions(cli::grouped(Cli::command()), &args),
        Command::Man(args) => cli::man(cli::grouped(Cli::command()), &args),
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
        | Command::Gc { .. }
        | Command::AdminKey { .. }
        | Command::Openapi
        | Command::Completions(_)
        | Command::Man(_)
        | Command::InstructionSets
        | Command::Bench(_)
        | Command::WithPostgres { .. } => "warn",
    }
}
