//! An HTTP client that knows that the service may be away.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::program::{repository, sha256};

/// How long a job may take altogether, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) struct Client {
    http: reqwest::Client,
    pub(crate) address: String,
}

/// What the service answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: Value,
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(crate) fn success(self) -> Result<Value> {
        ensure!(self.is_success(), "{self:?}");
        Ok(self.body)
    }
}

impl Client {
    pub(crate) fn new(port: u16) -> Self {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(90))
            .build()
            .unwrap();
        Self { http, address: format!("http://127.0.0.1:{port}") }
    }

    /// Sends a request once.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        let began = Instant::now();
        let response = request.send().await?;
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { status, retry_after, body, took: began.elapsed() })
    }

    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.address))
    }

    pub(crate) async fn try_get(&self, path: &str) -> Result<Answer> {
        self.send(self.request(reqwest::Method::GET, path)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.try_get(path).await?.success().with_context(|| format!("GET {path}"))
    }

    pub(crate) async fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let response = self.request(reqwest::Method::GET, path).send().await?;
        ensure!(response.status().is_success(), "GET {path}: {response:?}");
        Ok(response.bytes().await?.to_vec())
    }

    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.request(reqwest::Method::POST, path).json(body)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.try_post(path, body).await?.success().with_context(|| format!("POST {path}"))
    }

    /// Sends files as one upload.
    pub(crate) async fn try_upload(&self, path: &str, files: &[Vec<u8>]) -> Result<Answer> {
        let form = files.iter().enumerate().fold(Form::new(), |form, (index, file)| {
            form.part("files", Part::bytes(file.clone()).file_name(format!("{index}.jpg")))
        });
        self.send(self.request(reqwest::Method::POST, path).multipart(form)).await
    }

    /// Teaches the service of a concept with the photos of one of the demo's, without training it.
    pub(crate) async fn concept(&self, handle: &str, photos: &str) -> Result<()> {
        let body = json!({ "handle": handle, "modifier_token": format!("<{handle}>"), "class_noun": photos });
        self.post("/v1/concepts", &body).await?;
        let path = format!("/v1/concepts/{handle}/images");
        let upload = self.try_upload(&path, &photos_of(photos)).await?.success()?;
        ensure!(upload["rejected"] == 0, "{upload}");
        Ok(())
    }

    /// Starts a job and returns its path.
    pub(crate) async fn start(&self, collection: &str, body: &Value) -> Result<String> {
        let job = self.post(collection, body).await?;
        Ok(format!("{collection}/{}", text(&job, "id")?))
    }

    /// Waits until a job is as it should be; requests that fail are repeated.
    pub(crate) async fn wait(&self, path: &str, until: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_for(path, PATIENCE, until).await
    }

    pub(crate) async fn wait_for(
        &self,
        path: &str,
        limit: Duration,
        until: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let began = Instant::now();
        let mut last = Value::Null;
        loop {
            match self.get(path).await {
                Ok(job) if until(&job) => return Ok(job),
                Ok(job) => last = job,
                Err(error) => last["asked"] = json!(format!("{error:#}")),
            }
            if began.elapsed() > limit {
                bail!("{path} is not there after {limit:?}: {}", state(&last));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for the end of a job that has to succeed.
    pub(crate) async fn succeeded(&self, path: &str) -> Result<Value> {
        let job = self.wait(path, has_ended).await?;
        ensure!(job["status"] == "succeeded", "{path} ended as {}", state(&job));
        Ok(job)
    }

    /// The bytes of the delta of a training that has succeeded, as their digest.
    pub(crate) async fn delta_digest(&self, training: &Value) -> Result<String> {
        let delta = text(training, "delta")?;
        let content = self.bytes(&format!("/v1/deltas/{delta}/content")).await?;
        let digest = sha256(&content);
        let stated = self.get(&format!("/v1/deltas/{delta}")).await?;
        ensure!(stated["sha256"] == digest.as_str(), "the delta is not what its row says");
        Ok(digest)
    }

    /// The digests of a sample's images, in order, from their bytes.
    pub(crate) async fn image_digests(&self, sample: &Value) -> Result<Vec<String>> {
        let mut images = sample["images"].as_array().context("images")?.clone();
        images.sort_by_key(|image| image["index"].as_u64());
        let mut digests = Vec::new();
        for image in &images {
            let digest = sha256(&self.bytes(text(image, "url")?).await?);
            ensure!(image["sha256"] == digest.as_str(), "an image is not what its row says");
            digests.push(digest);
        }
        Ok(digests)
    }

    /// Whether the service says that it can serve.
    pub(crate) async fn is_ready(&self) -> bool {
        self.try_get("/readyz").await.is_ok_and(|answer| answer.is_success())
    }
}

/// A training of so many steps that is as fast as trainings get.
pub(crate) fn training_of(concept: &str, steps: u64) -> Value {
    json!({
        "concepts": [concept], "seed": 1,
        "recipe": {
            "max_train_steps": steps, "instance_batch_size": 1, "class_batch_size": 1, "num_class_images": 4,
        },
    })
}

/// The photos of a concept of the demo.
pub(crate) fn photos_of(concept: &str) -> Vec<Vec<u8>> {
    let folder = repository("demo/concepts").join(concept);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().take(4).map(|path| std::fs::read(path).unwrap()).collect()
}

pub(crate) fn has_ended(job: &Value) -> bool {
    ["succeeded", "failed", "canceled"].iter().any(|status| job["status"] == *status)
}

/// The step that a training has reported.
pub(crate) fn step_of(job: &Value) -> Option<u64> {
    (job["phase"] == "optimizing").then(|| job["progress"]["step"].as_u64())?
}

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field].as_str().with_context(|| format!("there is no {field}: {value}"))
}

/// What a job says about how it is.
pub(crate) fn state(job: &Value) -> Value {
    let fields = [
        "id",
        "status",
        "phase",
        "progress",
        "error",
        "attempt",
        "previous_attempts",
        "resumed_from_step",
        "started_over",
        "checkpoint_step",
        "asked",
    ];
    fields
        .into_iter()
        .filter_map(|field| Some((field.to_owned(), job.get(field)?.clone())))
        .collect()
}

/// The row's id of a published id such as `trn_01jd8q2m5xet8v3k9c0r4n7w6a`.
pub(crate) fn uuid_of(path: &str) -> Uuid {
    const ALPHABET: &[u8] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let letters = path.rsplit('_').next().unwrap_or_default().bytes();
    let bits = letters.fold(0u128, |bits, letter| {
        let digit = ALPHABET.iter().position(|known| *known == letter);
        (bits << 5) | digit.expect("an id") as u128
    });
    Uuid::from_u128(bits)
}
