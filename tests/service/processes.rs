//! The program as it is deployed: an API without a worker and a worker, two processes that share a database and a store.

mod database;
mod drain;
mod hostile;
mod limits;
mod logs;
mod start;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, PgPool};

use crate::harness::tiny;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program, without what the tests' own environment says.
fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vstar"));
    command.args(args).env_remove("DATABASE_URL").env_remove("VSTAR_OBJECT_STORE");
    command.env("VSTAR_BASE_MODEL", tiny());
    command
}

fn url(db: &PgPool) -> String {
    db.connect_options().to_url_lossy().to_string()
}

fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

/// A process that ends with the test.
struct Process {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Process {
    fn start(command: &str, db: &PgPool, objects: &tempfile::TempDir, args: &[&str]) -> Self {
        let mut program = program(&[command]);
        program.args(args).env("DATABASE_URL", url(db)).env("VSTAR_OBJECT_STORE", objects.path());
        Self::of(program)
    }

    fn of(mut program: Command) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.reopen().unwrap());
        Self { child: program.spawn().unwrap(), log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the process has ended.
    async fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks the process to end, waits until it has, and says whether it ended well.
    async fn end(&mut self) -> bool {
        self.signal("TERM");
        self.ended().await.success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(sent.unwrap().success(), "kill -{name} {process}");
}

/// An API without a worker, ready, and a client of it.
async fn api(db: &PgPool, objects: &tempfile::TempDir, args: &[&str]) -> (Process, Client) {
    let address = free_address();
    let listen = address.to_string();
    let args = [&["--no-worker", "--listen", &listen], args].concat();
    let process = Process::start("serve", db, objects, &args);
    let client = Client::of(address);
    client.is_ready().await;
    (process, client)
}

/// A client of the API.
#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    address: String,
}

impl Client {
    fn of(address: SocketAddr) -> Self {
        Self { http: reqwest::Client::new(), address: format!("http://{address}") }
    }

    fn socket(&self) -> SocketAddr {
        self.address.trim_start_matches("http://").parse().unwrap()
    }

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

    /// Starts a training that takes longer than any test, and returns its path.
    async fn start_endless_training(&self) -> String {
        let concept = json!({ "handle": "dog", "modifier_token": "<rex>", "class_noun": "dog" });
        self.post("/v1/concepts", concept).await;
        let mut photos = Form::new();
        for entry in std::fs::read_dir(tiny().join("../../demo/concepts/dog")).unwrap() {
            let photo = std::fs::read(entry.unwrap().path()).unwrap();
            photos = photos.part("files", Part::bytes(photo).file_name("a.jpg"));
        }
        let upload = self.http.post(format!("{}/v1/concepts/dog/images", self.address));
        upload.multipart(photos).send().await.unwrap().error_for_status().unwrap();
        let recipe = json!({ "max_train_steps": 100_000, "num_class_images": 4 });
        let training = json!({ "concepts": ["dog"], "recipe": recipe });
        let training = self.post("/v1/trainings", training).await;
        format!("/v1/trainings/{}", training["id"].as_str().unwrap())
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
    let (mut api, client) = api(&db, &objects, &[]).await;

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
    let training = client.start_endless_training().await;
    client.wait(&training, |training| training["progress"]["step"].as_u64() > Some(1)).await;

    assert!(worker.end().await, "the worker ended badly");

    let handed_back = client.get(&training).await;
    assert_eq!((&handed_back["status"], &handed_back["attempt"]), (&json!("queued"), &json!(1)));
    assert_eq!(handed_back["previous_attempts"][0]["reason"]["code"], "worker_stopped");
    assert!(api.end().await, "the API ended badly");
}
