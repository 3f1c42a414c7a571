//! What every command has: a client of the service, and where its results go.

use anyhow::Result;
use clap::Args;

use super::interrupt::Interrupts;
use super::output::Output;
use crate::client::Client;

/// A command's own arguments, and the service that it asks.
#[derive(Clone, Debug, Args)]
pub struct Asking<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    connection: Connection,
}

impl<A: Args> Asking<A> {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the command.
    pub(super) async fn run(
        self,
        leading: &LeadingOptions,
        command: impl AsyncFnOnce(&Session, A) -> Result<()>,
    ) -> Result<()> {
        let session = Session::open(&self.connection, leading);
        command(&session, self.args).await
    }
}

/// Which service, and how its answers are shown.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Service and output")]
struct Connection {
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
    server: String,
    /// Prints the service's answers as they are.
    #[arg(long, global = true)]
    json: bool,
    /// Shows no progress.
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// The options of a connection where they stand before the command, as in `vstar --json queue`.
#[derive(Clone, Debug, Default, Args)]
pub struct LeadingOptions {
    /// The same as after the command.
    #[arg(long, alias = "url", value_name = "URL", hide = true, value_parser = address)]
    server: Option<String>,
    /// The same as after the command.
    #[arg(long, hide = true)]
    json: bool,
    /// The same as after the command.
    #[arg(long, short, hide = true)]
    quiet: bool,
}

impl LeadingOptions {
    /// The first of them that is given, such as `--json`.
    pub fn given(&self) -> Option<&'static str> {
        match self {
            Self { server: Some(_), .. } => Some("--server"),
            Self { json: true, .. } => Some("--json"),
            Self { quiet: true, .. } => Some("--quiet"),
            Self { server: None, json: false, quiet: false } => None,
        }
    }
}

/// One run of a command.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) out: Output,
    pub(super) interrupts: Interrupts,
}

impl Session {
    fn open(connection: &Connection, leading: &LeadingOptions) -> Self {
        let server = leading.server.as_ref().unwrap_or(&connection.server);
        let (json, quiet) = (connection.json || leading.json, connection.quiet || leading.quiet);
        Self {
            client: Client::new(server),
            out: Output::new(json, quiet),
            interrupts: Interrupts::listen(),
        }
    }
}

fn address(text: &str) -> Result<String, String> {
    let is_address = url::Url::parse(text).is_ok_and(|url| {
        ["http", "https"].contains(&url.scheme())
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    match is_address {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(format!("`{text}` is not an address like http://127.0.0.1:8080")),
    }
}
