//! Results on standard output. A reader that has seen enough, such as `head`, ends the program quietly.

use std::io::{ErrorKind, IsTerminal, Write};

use anyhow::{Context, Error, Result};

/// Whoever reads standard output has gone. This is no failure of the program.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed by its reader")]
pub struct Closed;

/// Whether colours are shown: on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
pub fn takes_colors() -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    std::io::stdout().is_terminal() && !is_unwanted && !is_dumb
}

/// Writes a text as it is, all of it before it returns.
///
/// # Errors
/// [`Closed`] if nobody reads it any more, or what keeps it from being written, such as a full disk.
pub fn print(text: &str) -> Result<()> {
    write(text.as_bytes())
}

/// Writes a text and ends the line.
///
/// # Errors
/// As for [`print()`].
pub fn line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Writes bytes as they are, all of them before it returns.
///
/// # Errors
/// As for [`print()`].
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Error::new(Closed)),
        Err(error) => Err(error).context("standard output cannot be written to"),
    }
}
