//! Whether a database can be used, and if not, why and what to do.

use std::io::ErrorKind;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, anyhow};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Error};

/// How long a server may take to accept a client.
const REACH_LIMIT: Duration = Duration::from_millis(1800);

/// Connects once. A pool would try until its time is up, and then know only that it is up.
///
/// # Errors
/// A sentence with the cause and the remedy. The password is not in it.
pub(crate) async fn reach(url: &str) -> Result<PgConnectOptions> {
    let options = parse(url)?;
    let at = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    match tokio::time::timeout(REACH_LIMIT, options.connect()).await {
        Ok(Ok(connection)) => {
            drop(tokio::time::timeout(REACH_LIMIT, connection.close()).await);
            Ok(options)
        }
        Ok(Err(error)) => Err(anyhow!("DATABASE_URL: {}", cause(&error, &options, &at))),
        Err(_) => Err(anyhow!(
            "DATABASE_URL: {at} does not answer: see that the server runs, and that no firewall is in between"
        )),
    }
}

fn parse(url: &str) -> Result<PgConnectOptions> {
    let form = "write postgres://user:password@host:5432/database";
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(anyhow!("DATABASE_URL is not the address of a Postgres: {form}"));
    }
    PgConnectOptions::from_str(url)
        .map_err(|error| anyhow!("DATABASE_URL is not the address of a Postgres ({error}): {form}"))
}

fn cause(error: &Error, options: &PgConnectOptions, at: &str) -> String {
    let (host, user) = (options.get_host(), options.get_username());
    // Postgres takes the user's name where no database is given.
    let database = options.get_database().unwrap_or(user);
    match error {
        Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
            format!("nothing listens on {at}: start Postgres there, or correct host and port")
        }
        Error::Io(error) if error.kind() == ErrorKind::NotFound => {
            format!("there is no socket {at}: start Postgres there, or correct the path")
        }
        Error::Io(error) if error.to_string().contains("lookup address") => {
            format!("the host {host} is not known: correct its name")
        }
        Error::Database(error) => match error.code().as_deref() {
            Some("28P01") => format!("{at} refuses the password of {user}: correct it"),
            Some("28000") => format!(
                "{at} refuses the user {user} ({}): create the user, or allow it in pg_hba.conf",
                error.message()
            ),
            Some("3D000") => {
                format!("{at} has no database {database}: create it with `createdb {database}`")
            }
            Some("53300") => format!("{at} has no connection left: raise its max_connections"),
            Some("57P03") => format!("{at} is starting up or shutting down: try again"),
            _ => format!("{at} refuses: {}", error.message()),
        },
        error => format!("{at} cannot be reached: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_none_is_told_with_its_form_and_without_its_password() {
        for url in
            ["mysql://me:secret@host/db", "host=localhost", "postgres://me:secret@host:port/db"]
        {
            let error = reach(url).await.unwrap_err().to_string();

            assert!(error.contains("postgres://user:password@host:5432/database"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
