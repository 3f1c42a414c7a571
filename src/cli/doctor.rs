//! `vstar doctor`: what a service needs on this machine, and whether one answers.

use anyhow::{Error, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::output::{Column, text};
use super::session::{Connection, Session};
use crate::config::Settings;
use crate::serve::doctor::{Checked, examine};
use crate::stdout;

/// The settings of a service, as for `vstar serve`, and the address of one.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten, next_help_heading = "Settings of a service")]
    settings: Settings,
}

const COLUMNS: &[Column] = &[
    ("what", |row| text(&row["name"])),
    ("state", |row| text(&row["status"])),
    ("", |row| text(&row["detail"])),
];

/// # Errors
/// If something is missing that a service needs.
pub(super) async fn run(args: DoctorArgs) -> Result<()> {
    let session = Session::open(&args.connection);
    let checked = examine(&args.settings).await;
    let missing = checked.iter().filter(|one| one.found.is_err() && !one.is_optional).count();
    let mut rows: Vec<Value> = checked.iter().map(row).collect();
    rows.push(service(&session).await);
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
    let (status, detail) = match session.client.get("/v1/capabilities").await {
        Ok(capabilities) => {
            let (model, version) =
                (text(&capabilities["base_model"]["name"]), text(&capabilities["version"]));
            ("ok", format!("{address} answers: vstar {version} with {model}"))
        }
        Err(error) => ("none", of(address, &error)),
    };
    json!({ "name": "service", "status": status, "detail": detail })
}

fn of(address: &str, error: &Error) -> String {
    match error.downcast_ref::<crate::client::Refused>() {
        Some(refused) => format!("{address} refuses: {refused}"),
        None => format!("none answers at {address}: `vstar serve` starts one"),
    }
}
