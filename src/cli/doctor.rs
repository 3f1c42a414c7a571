//! `vstar doctor`: what a service needs on this machine, and whether one answers.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Error, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::exit::stranger;
use super::output::{Column, text};
use super::session::Session;
use crate::client::{Client, Refused, Unanswered};
use crate::config::Settings;
use crate::serve::doctor::{Checked, examine};
use crate::stdout;

/// The settings of a service, as for `vstar serve`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Settings of a service")]
pub struct DoctorArgs {
    /// Address that a service here is to listen on.
    #[arg(long, env = "VSTAR_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(flatten)]
    settings: Settings,
}

/// How long whatever listens may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

const COLUMNS: &[Column] = &[
    ("what", |row| text(&row["name"])),
    ("state", |row| text(&row["status"])),
    ("", |row| text(&row["detail"])),
];

/// # Errors
/// If something is missing that a service needs.
pub(super) async fn run(session: &Session, args: DoctorArgs) -> Result<()> {
    let (mut checked, port) = tokio::join!(examine(&args.settings), port(args.listen));
    checked.push(Checked { what: "port", found: port, is_optional: false });
    let missing = checked.iter().filter(|one| one.found.is_err() && !one.is_optional).count();
    let mut rows: Vec<Value> = checked.iter().map(row).collect();
    rows.push(service(session).await);
    if session.out.json {
        stdout::line(&json!({ "checks": rows }).to_string())?;
    } else {
        session.out.rows(&rows, COLUMNS)?;
    }
    match missing {
        0 => Ok(()),
        count => bail!("{count} of what a service needs here is missing"),
    }
}

fn row(checked: &Checked) -> Value {
    let (status, detail) = match (&checked.found, checked.is_optional) {
        (Ok(found), _) => ("ok", found.clone()),
        (Err(error), true) => ("none", format!("{error:#}")),
        (Err(error), false) => ("missing", format!("{error:#}")),
    };
    json!({ "name": checked.what, "status": status, "detail": detail })
}

/// Whether the service answers, and takes the key.
async fn service(session: &Session) -> Value {
    let address = session.client.address();
    let asked = timeout(ANSWER_LIMIT, session.client.get("/v1/capabilities"));
    let answered = asked.await.unwrap_or_else(|_| {
        Err(Error::msg(format!("it has not answered within {} s", ANSWER_LIMIT.as_secs())))
    });
    let (status, detail) = match answered {
        Ok(capabilities) if !capabilities["base_model"].is_object() => {
            ("none", format!("{address} is no vstar service: --server takes the address of one"))
        }
        Ok(capabilities) => {
            let (model, version) =
                (text(&capabilities["base_model"]["name"]), text(&capabilities["version"]));
            ("ok", format!("{address} answers: vstar {version} with {model}"))
        }
        Err(error) => ("none", unusable(address, &error)),
    };
    json!({ "name": "service", "status": status, "detail": detail })
}

fn unusable(address: &str, error: &Error) -> String {
    match error.downcast_ref::<Refused>() {
        Some(refused) if refused.code() == "unauthenticated" => {
            format!("{address} answers and asks for a key: set VSTAR_API_KEY to one that it knows")
        }
        Some(refused) if refused.problem.is_some() => format!("{address} refuses: {refused}"),
        Some(refused) => format!("{address} answers {}: {}", refused.status, stranger(refused)),
        None if error.is::<Unanswered>() => {
            format!("none answers at {address}: `vstar serve` starts one")
        }
        None => format!("{address}: {error}"),
    }
}

/// Whether a service can listen there, or does so already.
async fn port(listen: SocketAddr) -> Result<String> {
    let error = match TcpListener::bind(listen).await {
        Ok(_) => return Ok(format!("{listen} is free")),
        Err(error) => error,
    };
    let remedy = match error.kind() {
        ErrorKind::AddrInUse if is_service(listen).await => {
            return Ok(format!("a vstar service listens on {listen}"));
        }
        ErrorKind::AddrInUse => "another program has it: end that, or choose another port",
        ErrorKind::AddrNotAvailable => {
            "this machine does not have that address: choose 127.0.0.1 or 0.0.0.0"
        }
        ErrorKind::PermissionDenied => {
            "ports below 1024 are for the administrator: choose a higher one"
        }
        _ => "choose another address",
    };
    Err(Error::from(error).context(format!("--listen {listen}: {remedy}")))
}

async fn is_service(listen: SocketAddr) -> bool {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let client = Client::with_key(&format!("http://{}", SocketAddr::new(ip, listen.port())), None);
    match timeout(ANSWER_LIMIT, client.get("/v1/capabilities")).await {
        Ok(Ok(capabilities)) => capabilities["base_model"].is_object(),
        Err(_) => false,
        // It asks for a key, for example.
        Ok(Err(error)) => {
            error.downcast_ref::<Refused>().is_some_and(|refused| refused.problem.is_some())
        }
    }
}
