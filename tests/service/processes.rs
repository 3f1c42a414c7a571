//! The program as it is deployed: an API without a worker and a worker, two processes that share a database and a store.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, PgPool};

use crate::harness::tiny;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(command: &str, db: &PgPool, objects: &tempfile::TempDir, args: &[&str]) -> Self {
        let database_url = db.connect_options().to_url_lossy().to_string();
        let child = Command::new(env!("CARGO_BIN_EXE_vstar"))
            .arg(command)
            .args(args)
            .env("DATABASE_URL", database_url)
            .env("VSTAR_OBJECT_STORE", objects.path())
            .env("VSTAR_BASE_MODEL", tiny())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// Asks the process to end, waits until it has, and says whether it ended well.
    async fn end(&mut self) -> bool {
        let asked = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(asked.unwrap().success());
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client of the API.
struct Client {
    http: reqwest::Client,
    address: String,
}

impl Client {
    async fn post(&self, path: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.address)).json(&body);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{response:?}");
        response.json().await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}{path}", self.address)).send().await.unwrap();
        response.json().await.unwrap()
    }

    async fn wait(&self, path: &str, until: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let body = self.get(path).await;
            if until(&body) {
                return body;
            }
            assert!(began.elapsed() < PATIENCE, "{body}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_ready(&self) {
        let began = Instant::now();
        let ready = format!("{}/readyz", self.address);
        while !self.http.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(began.elapsed() < PATIENCE, "the service does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_api_without_a_worker_and_a_worker_serve_together_and_end_in_order(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let listen = free.to_string();
    let mut api = Process::start("serve", &db, &objects, &["--no-worker", "--listen", &listen]);
    let client = Client { http: reqwest::Client::new(), address: format!("http://{free}") };
    client.is_ready().await;

    // Nobody works yet.
    let sample = client.post("/v1/samples", json!({ "prompt": "a dog", "num_inference_steps": 2 }));
    let sample = format!("/v1/samples/{}", sample.await["id"].as_str().unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.get(&sample).await["status"], "queued");

    let mut worker = Process::start("work", &db, &objects, &[]);
    let sample = client.wait(&sample, |sample| sample["status"] == "succeeded").await;
    let image = sample["images"][0]["url"].as_str().unwrap();
    let image = client.http.get(format!("{}{image}", client.address)).send().await.unwrap();
    assert!(image::load_from_memory(&image.bytes().await.unwrap()).is_ok());

    // A worker that ends hands its training back, and the API goes on without it.
    let concept = json!({ "handle": "dog", "modifier_token": "<rex>", "class_noun": "dog" });
    client.post("/v1/concepts", concept).await;
    let mut photos = Form::new();
    for entry in std::fs::read_dir(tiny().join("../../demo/concepts/dog")).unwrap() {
        let photo = std::fs::read(entry.unwrap().path()).unwrap();
        photos = photos.part("files", Part::bytes(photo).file_name("a.jpg"));
    }
    let upload = client.http.post(format!("{}/v1/concepts/dog/images", client.address));
    upload.multipart(photos).send().await.unwrap().error_for_status().unwrap();
    let recipe = json!({ "max_train_steps": 100_000, "num_class_images": 4 });
    let training = json!({ "concepts": ["dog"], "recipe": recipe });
    let training = client.post("/v1/trainings", training).await;
    let training = format!("/v1/trainings/{}", training["id"].as_str().unwrap());
    client.wait(&training, |training| training["progress"]["step"].as_u64() > Some(1)).await;

    assert!(worker.end().await, "the worker ended badly");

    let handed_back = client.get(&training).await;
    assert_eq!((&handed_back["status"], &handed_back["attempt"]), (&json!("queued"), &json!(1)));
    assert_eq!(handed_back["previous_attempts"][0]["reason"]["code"], "worker_stopped");
    assert!(api.end().await, "the API ended badly");
}
