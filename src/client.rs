//! An HTTP client of the service: JSON in and out, every request written down.
//!
//! The command line, the demo, the tables and the examples use it. What creates something is sent with an `Idempotency-Key`, so that a
//! request whose answer was lost is sent again without being done twice.

mod follow;
mod problem;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use reqwest::RequestBuilder;
use reqwest::header::{HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use reqwest::multipart::{Form, Part};
use serde::Serialize;
use serde_json::Value;

pub use reqwest::{Method, StatusCode};

pub use self::follow::Seen;
pub(crate) use self::follow::succeeded;
pub use self::problem::{FieldProblem, JobEnded, Problem, Refused, Strange, Unanswered};

/// How often a request is sent again.
const RETRIES: u32 = 3;
/// The longest pause that a request waits for.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// One HTTP request; repeated polls of a job count as one.
#[derive(Clone, Debug, Serialize)]
pub struct RequestReport {
    method: String,
    path: String,
    status: u16,
    seconds: f64,
    times: usize,
}

/// What the service answered to a request that it has done.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body as it came.
    pub bytes: Bytes,
    /// The body read as JSON; null if it is empty.
    pub value: Value,
}

/// A client of one service; it records what it asks for.
pub struct Client {
    http: reqwest::Client,
    key: Option<String>,
    address: String,
    /// What this client's idempotency keys begin with.
    invocation: uuid::Uuid,
    /// The number of requests so far that have such a key.
    created: AtomicU64,
    requests: Mutex<Vec<RequestReport>>,
}

impl Client {
    /// Sends the key in `VSTAR_API_KEY`, if there is one.
    ///
    /// - `address`: such as `http://127.0.0.1:8080`, or `https://images.example/vstar` behind a proxy
    pub fn new(address: &str) -> Self {
        Self::with_key(address, std::env::var("VSTAR_API_KEY").ok().as_deref())
    }

    /// Sends a key of the caller's, or none if it is empty. Blanks and line breaks around it are left out.
    pub fn with_key(address: &str, key: Option<&str>) -> Self {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Self {
            http: http.unwrap_or_default(),
            key: key.map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned),
            address: address.trim_end_matches('/').to_owned(),
            invocation: uuid::Uuid::new_v4(),
            created: AtomicU64::new(0),
            requests: Mutex::default(),
        }
    }

    /// Where the service is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the JSON at a path such as `/v1/capabilities`.
    ///
    /// # Errors
    /// [`Unanswered`] if the service cannot be reached, [`Refused`] if it answers with a problem.
    pub async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.read(path).await?.value)
    }

    /// Sends a JSON body and returns the answer.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        Ok(self.create(path, body).await?.value)
    }

    /// The same as [`Self::get`], with the body as it came.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn read(&self, path: &str) -> Result<Answer> {
        let answer = self.send(Method::GET, path, Repeat::Freely, |request| request).await?;
        answer.read_json(path)
    }

    /// Sends a JSON body, or none if it is null, to an operation that makes something. If the answer is lost, the request is sent again
    /// under the same idempotency key.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn create(&self, path: &str, body: &Value) -> Result<Answer> {
        let sent = self.send(Method::POST, path, self.once(), |request| with(request, body));
        sent.await?.read_json(path)
    }

    /// Sends a request that changes something; `body` may be null for none. It is sent again only if the service has refused it for a
    /// reason that passes.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn change(&self, method: Method, path: &str, body: &Value) -> Result<Answer> {
        let sent = self.send(method, path, Repeat::IfRefused, |request| with(request, body));
        sent.await?.read_json(path)
    }

    /// Uploads files as the parts `files` of a multipart body.
    ///
    /// # Errors
    /// If a file cannot be read; otherwise as for [`Self::get`].
    pub async fn upload(&self, path: &str, files: &[PathBuf]) -> Result<Value> {
        Ok(self.upload_as(path, "files", files).await?.value)
    }

    /// Uploads an archive as the part `file` of a multipart body.
    ///
    /// # Errors
    /// As for [`Self::upload`].
    pub async fn upload_archive(&self, path: &str, file: &Path) -> Result<Value> {
        Ok(self.upload_as(path, "file", &[file.to_owned()]).await?.value)
    }

    /// Uploads files as parts of that name.
    ///
    /// # Errors
    /// As for [`Self::upload`].
    pub async fn upload_as(&self, path: &str, part: &str, files: &[PathBuf]) -> Result<Answer> {
        let mut contents = Vec::new();
        for file in files {
            let content = std::fs::read(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            contents.push((name, Bytes::from(content)));
        }
        let sent = self.send(Method::POST, path, self.once(), |request| {
            let form = contents.iter().fold(Form::new(), |form, (name, content)| {
                let length = content.len() as u64;
                let content = Part::stream_with_length(content.clone(), length);
                form.part(part.to_owned(), content.file_name(name.clone()))
            });
            request.multipart(form)
        });
        sent.await?.read_json(path)
    }

    /// Fetches a file.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn fetch(&self, path: &str) -> Result<Vec<u8>> {
        let answer = self.send(Method::GET, path, Repeat::Freely, |request| request).await?;
        Ok(answer.bytes.into())
    }

    /// Fetches a file to a place and returns its size.
    ///
    /// # Errors
    /// If the place cannot be written to; otherwise as for [`Self::get`].
    pub async fn download(&self, path: &str, to: &Path) -> Result<usize> {
        let bytes = self.fetch(path).await?;
        std::fs::write(to, &bytes)
            .with_context(|| format!("{} cannot be written", to.display()))?;
        Ok(bytes.len())
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<RequestReport> {
        self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// A key for one more request that makes something.
    fn once(&self) -> Repeat {
        let number = self.created.fetch_add(1, Ordering::Relaxed);
        Repeat::UnderKey(format!("{}-{number}", self.invocation))
    }

    /// Sends a request, and again while that can help.
    async fn send(
        &self,
        method: Method,
        path: &str,
        repeat: Repeat,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer> {
        let mut attempt = 0;
        loop {
            let request = self.http.request(method.clone(), format!("{}{path}", self.address));
            let mut request = build(request);
            if let Some(key) = &self.key {
                request = request.bearer_auth(key);
            }
            if let Repeat::UnderKey(key) = &repeat {
                request = request.header("idempotency-key", key);
            }
            let error = match self.send_once(&method, path, request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match pause_after(&error, &repeat, attempt) {
                Some(pause) if attempt < RETRIES && pause <= LONGEST_PAUSE => {
                    tokio::time::sleep(pause).await;
                }
                Some(_) | None => return Err(error),
            }
            attempt += 1;
        }
    }

    async fn send_once(
        &self,
        method: &Method,
        path: &str,
        request: RequestBuilder,
    ) -> Result<Answer> {
        let start = Instant::now();
        let unanswered = |source| Unanswered {
            method: method.to_string(),
            path: path.to_owned(),
            address: self.address.clone(),
            source,
        };
        let response = request.send().await.map_err(unanswered)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.map_err(unanswered)?;
        self.write_down(method, path, status.as_u16(), start.elapsed().as_secs_f64());
        if !status.is_success() {
            let header = |name: HeaderName| headers.get(name)?.to_str().ok();
            let seconds = header(RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
            return Err(anyhow::Error::new(Refused {
                method: method.to_string(),
                address: self.address.clone(),
                path: path.to_owned(),
                status,
                problem: serde_json::from_slice(&bytes).ok(),
                body: String::from_utf8_lossy(&bytes).into_owned(),
                location: header(LOCATION).map(str::to_owned),
                retry_after: seconds.map(Duration::from_secs),
            }));
        }
        Ok(Answer { status, headers, bytes, value: Value::Null })
    }

    fn write_down(&self, method: &Method, path: &str, status: u16, seconds: f64) {
        let path = follow::without_wait(path);
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

impl Answer {
    fn read_json(mut self, path: &str) -> Result<Self> {
        if !self.bytes.is_empty() {
            self.value = serde_json::from_slice(&self.bytes)
                .map_err(|_| Strange { path: path.to_owned() })?;
        }
        Ok(self)
    }
}

/// A request with a JSON body, or with none if it is null.
fn with(request: RequestBuilder, body: &Value) -> RequestBuilder {
    match body {
        Value::Null => request,
        body => request.json(body),
    }
}

/// When a request may be sent again.
enum Repeat {
    /// It changes nothing.
    Freely,
    /// The service does it once, however often it comes with this key.
    UnderKey(String),
    /// It may have been done if its answer is lost.
    IfRefused,
}

/// How long to wait before a request is sent again; `None` if that does not help.
fn pause_after(error: &anyhow::Error, repeat: &Repeat, attempt: u32) -> Option<Duration> {
    let growing = Duration::from_millis(500) * 2_u32.pow(attempt);
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return refused.is_passing().then(|| refused.retry_after.unwrap_or(growing));
    }
    let unanswered = error.downcast_ref::<Unanswered>()?;
    // Where nobody listens, nobody does so in a second either.
    let was_sent = !unanswered.source.is_connect() && !unanswered.source.is_builder();
    let is_safe = matches!(repeat, Repeat::Freely | Repeat::UnderKey(_));
    (was_sent && is_safe).then_some(growing)
}
