//! An HTTP client of the service: JSON in and out, every request written down.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde_json::Value;

/// How often a job is polled.
const POLL: Duration = Duration::from_millis(300);

/// One HTTP request; repeated polls of a job count as one.
#[derive(Clone, Debug, Serialize)]
pub struct RequestReport {
    method: String,
    path: String,
    status: u16,
    seconds: f64,
    times: usize,
}

/// A client of one service; it records what it asks for.
pub struct Client {
    http: reqwest::Client,
    key: Option<String>,
    address: String,
    requests: Mutex<Vec<RequestReport>>,
}

impl Client {
    /// Sends the key in `VSTAR_API_KEY`, if there is one.
    ///
    /// - `address`: such as `http://127.0.0.1:8080`
    pub fn new(address: &str) -> Self {
        Self {
            http: reqwest::Client::new(),
            key: std::env::var("VSTAR_API_KEY").ok().filter(|key| !key.is_empty()),
            address: address.to_owned(),
            requests: Mutex::default(),
        }
    }

    /// Returns the JSON at a path such as `/v1/capabilities`.
    ///
    /// # Errors
    /// If the service cannot be reached, or answers with a problem; the message has its code and detail.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let bytes = self.send(Method::GET, path, |request| request).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("GET {path} did not answer with JSON"))
    }

    /// Sends a JSON body and returns the answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let bytes = self.send(Method::POST, path, |request| request.json(body)).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("POST {path} did not answer with JSON"))
    }

    /// Uploads files as the parts `files` of a multipart body.
    pub async fn upload(&self, path: &str, files: &[PathBuf]) -> Result<Value> {
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

    /// Uploads an archive as the part `file` of a multipart body.
    pub async fn upload_archive(&self, path: &str, file: &Path) -> Result<Value> {
        let content =
            std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let form = Form::new().part("file", Part::bytes(content).file_name(name));
        let bytes = self.send(Method::POST, path, |request| request.multipart(form)).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("POST {path} did not answer with JSON"))
    }

    /// Fetches a file.
    pub async fn fetch(&self, path: &str) -> Result<Vec<u8>> {
        self.send(Method::GET, path, |request| request).await
    }

    /// Fetches a file to a place and returns its size.
    pub async fn download(&self, path: &str, to: &Path) -> Result<usize> {
        let bytes = self.fetch(path).await?;
        std::fs::write(to, &bytes)
            .with_context(|| format!("{} cannot be written", to.display()))?;
        Ok(bytes.len())
    }

    /// Polls a job until it has succeeded, and calls `see` with each answer.
    pub async fn finish(&self, path: &str, mut see: impl FnMut(&Value)) -> Result<Value> {
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

    /// All requests so far.
    pub fn requests(&self) -> Vec<RequestReport> {
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
        let request = match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let response =
            request.send().await.with_context(|| format!("{method} {path} was not answered"))?;
        let status = response.status();
        let bytes = response.bytes().await.with_context(|| format!("{method} {path} broke off"))?;
        self.write_down(&method, path, status.as_u16(), start.elapsed().as_secs_f64());
        if !status.is_success() {
            bail!("{method} {path} answered {status}: {}", reason(&bytes));
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

/// What a problem says, or the body as it is.
fn reason(body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    match (problem["code"].as_str(), problem["detail"].as_str()) {
        (Some(code), Some(detail)) => format!("{code}: {detail}"),
        _ => String::from_utf8_lossy(body).into_owned(),
    }
}
