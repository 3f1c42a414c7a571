//! What every command has: a client of the service, and where its results go.

use clap::Args;

use super::interrupt::Interrupts;
use super::output::Output;
use crate::client::Client;

/// Which service, and how its answers are shown.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Service and output")]
pub(super) struct Connection {
    /// Address of the service. Its key is taken from VSTAR_API_KEY.
    #[arg(
        long,
        alias = "url",
        env = "VSTAR_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        global = true,
        value_parser = address
    )]
    pub(super) server: String,
    /// Prints the service's answers as they are.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Shows no progress.
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
}

/// One run of a command.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) out: Output,
    pub(super) interrupts: Interrupts,
}

impl Session {
    pub(super) fn open(connection: &Connection) -> Self {
        Self {
            client: Client::new(&connection.server),
            out: Output::new(connection.json, connection.quiet),
            interrupts: Interrupts::listen(),
        }
    }
}

fn address(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) && url.has_host() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        Ok(_) | Err(_) => Err(format!("`{text}` is not an address like http://127.0.0.1:8080")),
    }
}
