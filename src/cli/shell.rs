//! Completions for shells, and manual pages.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;

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
    clap_mangen::generate_to(program, &args.dir)
        .with_context(|| format!("{shown} cannot be written to"))?;
    Ok(())
}
