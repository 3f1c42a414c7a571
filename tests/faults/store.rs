//! An S3 server: SeaweedFS, which keeps its data on disk.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, until};

pub(crate) const BUCKET: &str = "vstar";

pub(crate) struct S3Server {
    pub(crate) port: u16,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl S3Server {
    /// Starts the server and makes the bucket; returns when it takes objects, whose volumes it makes at the first of them.
    pub(crate) async fn start(log: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("vstar-faults-s3-").tempdir()?;
        let [port, master, volume, filer] = ports();
        let mut command = Command::new("weed");
        command
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=20"])
            .arg("-master.volumeSizeLimitMB=256")
            .arg(format!("-dir={}", folder.path().display()))
            .arg(format!("-s3.port={port}"))
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"));
        let process = Process::start(command, log).context("run make object-stores")?;
        let http = reqwest::Client::new();
        let bucket = format!("http://127.0.0.1:{port}/{BUCKET}");
        until("the S3 server makes a bucket", Duration::from_secs(90), async || {
            let request = http.put(&bucket).header("content-length", "0");
            request.send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await?;
        until("the S3 server takes an object", Duration::from_secs(90), async || {
            let request = http.put(format!("{bucket}/first")).body("first");
            request.send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await?;
        Ok(Self { port, _process: process, _folder: folder })
    }
}

/// Free ports for the parts of the server, each of which has a second one ten thousand above its first. No port is given
/// twice, since servers that start at the same time have not bound theirs yet.
fn ports() -> [u16; 4] {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = (std::process::id() % 10_000) as u16;
    let mut free =
        std::iter::repeat_with(|| 10_000 + (first + GIVEN.fetch_add(7, Relaxed)) % 12_000)
            .take(2_000)
            .filter(|port| is_free(*port) && is_free(*port + 10_000));
    [(); 4].map(|()| free.next().expect("a free port"))
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
