//! The few requests that set a load up.

use std::time::Duration;

use reqwest::Client;
use reqwest::header::AUTHORIZATION;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

/// A client of the service.
pub(crate) struct Api {
    client: Client,
    url: String,
}

impl Api {
    pub(crate) fn new(url: String) -> Self {
        Self::with_key(url, None)
    }

    pub(crate) fn with_key(url: String, key: Option<&str>) -> Self {
        let headers = key.map(|key| (AUTHORIZATION, format!("Bearer {key}").parse().unwrap()));
        let client = Client::builder()
            .timeout(Duration::from_secs(60))
            .default_headers(headers.into_iter().collect())
            .build()
            .unwrap();
        Self { client, url }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        answer.json().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.client.post(format!("{}{path}", self.url)).json(body);
        let answer = request.send().await.unwrap();
        let (status, body) = (answer.status(), answer.json().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {body}");
        body
    }

    /// Teaches nothing yet: a concept with the demo's photos of a dog.
    pub(crate) async fn concept(&self) {
        let words = json!({ "handle": "rex", "modifier_token": "<rex>", "class_noun": "dog" });
        self.post("/v1/concepts", &words).await;
        let mut form = Form::new();
        for entry in std::fs::read_dir("demo/concepts/dog").unwrap() {
            let photo = std::fs::read(entry.unwrap().path()).unwrap();
            form = form.part("files", Part::bytes(photo).file_name("photo.jpg"));
        }
        let path = format!("{}/v1/concepts/rex/images", self.url);
        let answer = self.client.post(path).multipart(form).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// Starts a training and returns its path.
    pub(crate) async fn train(&self, steps: u64) -> String {
        let recipe = json!({ "max_train_steps": steps, "num_class_images": 8, "initializer_candidates": [] });
        let body = json!({ "concepts": ["rex"], "recipe": recipe, "seed": 1 });
        let training = self.post("/v1/trainings", &body).await;
        training["urls"]["self"].as_str().unwrap().to_owned()
    }

    /// The step that a training has reached; 0 before its first.
    pub(crate) async fn step(&self, training: &str) -> u64 {
        let training = self.get(training).await;
        assert_ne!(training["status"], "failed", "{training}");
        match training["phase"].as_str() {
            Some("optimizing") => training["progress"]["step"].as_u64().unwrap_or(0),
            _ => 0,
        }
    }

    /// Waits until a training has taken some steps.
    pub(crate) async fn is_training(&self, training: &str) {
        while self.step(training).await < 20 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
