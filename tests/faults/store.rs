//! S3 servers: SeaweedFS where it is installed, moto otherwise.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::process::{Process, free_port, until};

pub(crate) const BUCKET: &str = "vstar";

pub(crate) struct S3Server {
    pub(crate) port: u16,
    _process: Process,
}

impl S3Server {
    /// Starts `moto_server` and makes the bucket.
    pub(crate) async fn start(log: &Path) -> Result<Self> {
        let port = free_port();
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let process = Process::start(command, log)?;
        let http = reqwest::Client::new();
        let bucket = format!("http://127.0.0.1:{port}/{BUCKET}");
        until("the S3 server starts", Duration::from_secs(60), async || {
            http.get(format!("http://127.0.0.1:{port}/")).send().await.is_ok()
        })
        .await?;
        let made = http.put(bucket).send().await?;
        ensure!(made.status().is_success(), "{made:?}");
        Ok(Self { port, _process: process })
    }
}

/// The environment of a process that reaches the server, or a proxy of it, at this port.
pub(crate) fn environment(port: u16) -> Vec<(String, String)> {
    [
        ("VSTAR_OBJECT_STORE", format!("s3://{BUCKET}/objects")),
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}
