//! The few requests that set a load up.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use vstar::client::Client;

/// A client of the service. What makes the load has connections of its own: it must not send anything again.
pub(crate) struct Api {
    client: Client,
}

impl Api {
    pub(crate) fn new(url: String) -> Self {
        Self { client: Client::new(&url) }
    }

    pub(crate) fn with_key(url: String, key: Option<&str>) -> Self {
        Self { client: Client::with_key(&url, key) }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.client.get(path).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        self.client.post(path, body).await.unwrap()
    }

    /// Teaches nothing yet: a concept with the demo's photos of a dog.
    pub(crate) async fn concept(&self) {
        let words = json!({ "handle": "rex", "modifier_token": "<rex>", "class_noun": "dog" });
        self.post("/v1/concepts", &words).await;
        let photos = std::fs::read_dir("demo/concepts/dog").unwrap();
        let photos: Vec<PathBuf> = photos.map(|entry| entry.unwrap().path()).collect();
        self.client.upload("/v1/concepts/rex/images", &photos).await.unwrap();
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
