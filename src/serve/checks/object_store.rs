//! Whether an object store can be used, and if not, why and what to do.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpStream;
use url::Url;

use super::writable;
use crate::storage::Storage;

/// How long a store may take to take, refuse and delete a probe.
const CHECK_LIMIT: Duration = Duration::from_millis(1900);
/// How long its server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_millis(900);

/// # Errors
/// A sentence that names the place, the cause and the remedy.
pub(super) async fn check(place: &str) -> Result<()> {
    checked(place).await.with_context(|| format!("VSTAR_OBJECT_STORE {place}"))
}

async fn checked(place: &str) -> Result<()> {
    if !place.contains("://") {
        // The folder itself is made when all settings are right.
        return writable::check(Path::new(place));
    }
    let storage = Storage::open(place)?;
    // The client of a store tries again for long, and then the reason is lost. A connection alone fails at once.
    if let Some(endpoint) = endpoint(place) {
        connect(&endpoint).await?;
    }
    match tokio::time::timeout(CHECK_LIMIT, storage.check()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => match missing_credentials(place) {
            Some(missing) => Err(anyhow!(error).context(missing)),
            None => Err(error.into()),
        },
        Err(_) => Err(anyhow!(
            "the store did not take a probe within 2 s: {}",
            missing_credentials(place).unwrap_or(
                "see that it is reachable from here, and its region and credentials are right"
            )
        )),
    }
}

/// The server that the environment names for this kind of store, if it names one.
fn endpoint(place: &str) -> Option<Url> {
    let names: &[&str] = match place.split_once("://")?.0 {
        "s3" | "s3a" => &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"],
        "az" | "azure" | "abfs" | "abfss" | "adl" => {
            &["AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURITE_BLOB_STORAGE_URL"]
        }
        _ => &[],
    };
    let given = names.iter().find_map(|name| std::env::var(name).ok())?;
    Url::parse(&given).ok()
}

async fn connect(endpoint: &Url) -> Result<()> {
    let (Some(host), Some(port)) = (endpoint.host_str(), endpoint.port_or_known_default()) else {
        return Ok(());
    };
    match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(anyhow!(
            "{host}:{port} cannot be reached ({error}): start it, or correct the endpoint"
        )),
        Err(_) => Err(anyhow!(
            "{host}:{port} does not answer: correct the endpoint, or open the firewall"
        )),
    }
}

/// What the environment lacks, where the store itself would say it only late or unclearly.
fn missing_credentials(place: &str) -> Option<&'static str> {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match place.split_once("://")?.0 {
        "s3" | "s3a" => {
            let given = [
                "AWS_ACCESS_KEY_ID",
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            ];
            (!given.into_iter().any(is_set)).then_some(
                "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role gives them",
            )
        }
        _ => None,
    }
}
