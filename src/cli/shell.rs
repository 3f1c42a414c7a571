//! Completions for shells, and manual pages.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::exit::STATUSES;
use crate::stdout;

/// For which shell.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

/// Where manual pages go.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Folder for vstar.1, vstar-train.1 and so on; made if it is not there.
    dir: PathBuf,
}

/// Prints the completions of a program's command line.
///
/// # Errors
/// If standard output cannot be written to.
pub fn completions(mut program: Command, args: &CompletionsArgs) -> Result<()> {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    stdout::write(&script)
}

/// Writes a manual page for the program and each of its commands.
///
/// # Errors
/// If the folder cannot be made or written to.
pub fn man(program: Command, args: &ManArgs) -> Result<()> {
    let shown = args.dir.display();
    std::fs::create_dir_all(&args.dir).with_context(|| format!("{shown} cannot be made"))?;
    let mut program = program.disable_help_subcommand(true);
    program.build();
    write_pages(&program, &args.dir).with_context(|| format!("{shown} cannot be written to"))
}

/// A page for a command, and one for each command below it.
fn write_pages(command: &Command, dir: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_pages(below, dir)?;
    }
    let page = Man::new(command.clone()).manual("vstar");
    let mut text = Vec::new();
    page.render(&mut text)?;
    exit_statuses().to_writer(&mut text)?;
    std::fs::write(dir.join(page.get_filename()), text)
}

fn exit_statuses() -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["EXIT STATUS"]);
    for (status, cause) in STATUSES {
        section.control("TP", []).text([bold(status.to_string())]).text([roman(cause)]);
    }
    section
}
