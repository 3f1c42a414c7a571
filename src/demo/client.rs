//! The demo's HTTP client: JSON in and out, every request written down.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use super::report::RequestReport;

/// How often a job is looked at.
const POLL: Duration = Duration::from_millis(300);

pub(super) struct Client {
    http: reqwest::Client,
    address: String,
    requests: Mutex<Vec<RequestReport>>,
}

impl Client {
    pub(super) fn new(address: &str) -> Self {
        Self {
            http: reqwest::Client::new(),
            address: address.to_owned(),
            requests: Mutex::default(),
        }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        let bytes = self.send(Method::GET, path, |request| request).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("GET {path} did not answer with JSON"))
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let bytes = self.send(Method::POST, path, |request| request.json(body)).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("POST {path} did not answer with JSON"))
    }

    /// Uploads files as the parts `files` of a multipart body.
    pub(super) async fn upload(&self, path: &str, files: &[PathBuf]) -> Result<Value> {
        let mut form = Form::new();
        for file in files {
            let content = std::fs::read(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            form = form.part("files", Part::bytes(content).file_name(name));
        }
        let bytes = self.send(Method::POST, path, |request| request.multipart(form)).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("POST {path} did not answer with JSON"))
    }

    /// Fetches a file and returns its size.
    pub(super) async fn download(&self, path: &str, to: &Path) -> Result<usize> {
        let bytes = self.send(Method::GET, path, |request| request).await?;
        std::fs::write(to, &bytes)
            .with_context(|| format!("{} cannot be written", to.display()))?;
        Ok(bytes.len())
    }

    /// Looks at a job until it has succeeded; `see` hears of each look.
    pub(super) async fn finish(&self, path: &str, mut see: impl FnMut(&Value)) -> Result<Value> {
        loop {
            let job = self.get(path).await?;
            see(&job);
            match job["status"].as_str() {
                Some("succeeded") => return Ok(job),
                Some("failed" | "canceled" | "expired") => {
                    bail!("{path} ended as {}: {}", job["status"], job["error"])
                }
                Some(_) | None => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Everything that was asked so far.
    pub(super) fn requests(&self) -> Vec<RequestReport> {
        self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Vec<u8>> {
        let start = Instant::now();
        let request = build(self.http.request(method.clone(), format!("{}{path}", self.address)));
        let response =
            request.send().await.with_context(|| format!("{method} {path} was not answered"))?;
        let status = response.status();
        let bytes = response.bytes().await.with_context(|| format!("{method} {path} broke off"))?;
        self.write_down(&method, path, status.as_u16(), start.elapsed().as_secs_f64());
        if !status.is_success() {
            bail!("{method} {path} answered {status}: {}", String::from_utf8_lossy(&bytes));
        }
        Ok(bytes.to_vec())
    }

    fn write_down(&self, method: &Method, path: &str, status: u16, seconds: f64) {
        let mut requests = self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let last = requests.last_mut();
        if let Some(last) = last.filter(|last| {
            last.method == method.as_str() && last.path == path && last.status == status
        }) {
            last.seconds += seconds;
            last.times += 1;
            return;
        }
        requests.push(RequestReport {
            method: method.to_string(),
            path: path.to_owned(),
            status,
            seconds,
            times: 1,
        });
    }
}
