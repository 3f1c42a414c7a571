//! Who may use the API: the settings, the pepper of keys, and the first key.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use data_encoding::HEXLOWER;

use crate::app::App;
use crate::app::access::{Access, Pepper, Rates};
use crate::config::{AccessSettings, Auth, ServeSettings};
use crate::http::Doors;
use crate::stdout;

/// The file in the data folder that keeps the pepper.
const PEPPER_FILE: &str = "key-pepper";

/// Whether callers need keys.
///
/// # Errors
/// If others than this machine reach the address and no setting says what they may do.
pub(super) fn asks_for_keys(settings: &ServeSettings) -> Result<bool> {
    match settings.access.auth {
        Some(Auth::Keys) => Ok(true),
        Some(Auth::None) => Ok(false),
        None if settings.listen.ip().is_loopback() => Ok(false),
        None => Err(anyhow!(
            "--listen {}: whoever reaches this address could do everything: choose --auth keys, or --auth none if that is meant",
            settings.listen
        )),
    }
}

/// Who may use the API, as the settings have it.
///
/// # Errors
/// If there is no pepper and none can be kept.
pub(super) fn access(settings: &ServeSettings) -> Result<Access> {
    if !asks_for_keys(settings)? {
        return Ok(Access::open());
    }
    let rates = Rates {
        reads_per_minute: settings.access.reads_per_minute,
        writes_per_minute: settings.access.writes_per_minute,
    };
    let pepper = pepper(settings.access.key_pepper.as_deref(), &settings.common.data_dir)?;
    Ok(Access::by_keys(pepper, rates))
}

/// From where requests may come, as the settings have it.
pub(super) fn doors(settings: &ServeSettings) -> Doors {
    let AccessSettings { allowed_hosts, cors_origins, max_requests, .. } = settings.access.clone();
    Doors { address: settings.listen.ip(), allowed_hosts, cors_origins, max_requests }
}

/// Makes the first key if there is none, and shows it.
///
/// # Errors
/// If the database cannot be reached, or its keys were made with another pepper.
pub(super) async fn show_first_key(app: &App) -> Result<()> {
    if !app.asks_for_keys() {
        return Ok(());
    }
    if let Some(first) = app.issue_first_key().await.context("--auth keys")? {
        let said = "The first key, which may do everything. It is shown this once:";
        stdout::line(&format!("{said}\n{}", first.text))?;
    }
    Ok(())
}

/// The pepper that is set, or that the data folder keeps.
///
/// # Errors
/// If it is too short, or cannot be kept.
pub(super) fn pepper(given: Option<&str>, data_dir: &Path) -> Result<Pepper> {
    if let Some(given) = given {
        let pepper = Pepper::new(given.as_bytes().to_vec()).map_err(anyhow::Error::msg);
        return pepper.context("VSTAR_KEY_PEPPER");
    }
    let path = data_dir.join(PEPPER_FILE);
    let shown = path.display();
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("{} cannot be made", data_dir.display()))?;
    let fresh = Pepper::generate().map_err(anyhow::Error::msg)?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            let text = HEXLOWER.encode(fresh.as_bytes());
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
                .with_context(|| format!("{shown} cannot be written"))?;
            Ok(fresh)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("{shown} cannot be read"))?;
            let bytes = HEXLOWER.decode(text.trim().as_bytes()).unwrap_or_default();
            ensure!(!bytes.is_empty(), "{shown} is damaged: restore it, or all keys are lost");
            Pepper::new(bytes).map_err(anyhow::Error::msg).with_context(|| shown.to_string())
        }
        Err(error) => Err(error).with_context(|| format!("{shown} cannot be made")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pepper_is_kept_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();

        let first = pepper(None, dir.path()).unwrap();
        let again = pepper(None, dir.path()).unwrap();

        assert_eq!(first.as_bytes(), again.as_bytes());
        let mode = std::fs::metadata(dir.path().join(PEPPER_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(pepper(Some("short"), dir.path()).is_err());
        std::fs::write(dir.path().join(PEPPER_FILE), "").unwrap();
        assert!(pepper(None, dir.path()).is_err(), "never another one unasked");
    }
}
