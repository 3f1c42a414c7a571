//! What earlier versions stored is still used: their tasks parse, their databases migrate, their objects are read.
//!
//! `tests/fixtures/README.md` says what was recorded. Today's program runs here as its users run it, as a process.

use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool};
use vstar::domain::base_model::BaseModelProfile;
use vstar::domain::job::Task;
use vstar::engine::ops::InstructionSet;

use crate::harness::tiny;

/// The versions with a recording.
const RECORDED: [&str; 1] = ["v0.1.0"];

/// Fields that have another name today.
const RENAMED: [(&str, &str); 2] =
    [("learning_rate_schedule", "lr_scheduler"), ("learning_rate_warmup_steps", "lr_warmup_steps")];

#[test]
fn tasks_of_earlier_versions_mean_the_same() {
    for version in RECORDED {
        let mut kinds = Vec::new();
        for entry in std::fs::read_dir(folder(version).join("tasks")).unwrap() {
            let path = entry.unwrap().path();
            let old = read_json(&path);

            let task: Task = serde_json::from_value(old.clone())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));

            let old = with_regularization(old);
            assert_kept(&old, &serde_json::to_value(&task).unwrap(), &path.display().to_string());
            kinds.push(task.kind().as_str());
        }
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds, ["merge", "sample", "training"], "{version} has a task of each kind");
    }
}

/// A task with the field that trainings have instead of `class_images` since version 3 of tasks.
fn with_regularization(mut task: Value) -> Value {
    let fields = task.as_object_mut().unwrap();
    if let Some(class_images) = fields.remove("class_images") {
        let regularization = match class_images.as_str().unwrap() {
            "auto" => json!({ "source": "set", "set": null, "select": "class_noun" }),
            "none" => json!({ "source": "none" }),
            other => panic!("class images {other}"),
        };
        fields.insert("regularization".to_owned(), regularization);
    }
    task
}

#[test]
fn settings_of_a_base_model_from_earlier_versions_mean_the_same() {
    for version in RECORDED {
        let path = folder(version).join("vstar.json");
        let old = read_json(&path);

        let profile: BaseModelProfile = serde_json::from_value(old.clone()).unwrap();

        assert_kept(&old, &serde_json::to_value(&profile).unwrap(), &path.display().to_string());
    }
}

#[sqlx::test(migrations = false)]
async fn a_restored_catalog_is_answered_as_before(db: PgPool) {
    for version in RECORDED {
        let restored = Restored::start(&db, version, &["--no-worker"]).await;

        let answers = restored.recorded["answers"].as_object().unwrap();

        assert!(answers.len() > 30, "{} answers were recorded", answers.len());
        for (path, old) in answers {
            assert_kept(old, &restored.get(path).await, path);
        }
        for delta in answers["/v1/deltas"]["data"].as_array().unwrap() {
            let path = format!("/v1/deltas/{}/content", delta["id"].as_str().unwrap());
            assert_eq!(sha256(&restored.bytes(&path).await), delta["sha256"], "{path}");
        }
        for image in all_images(answers) {
            let path = image["url"].as_str().unwrap();
            assert_eq!(sha256(&restored.bytes(path).await), image["sha256"], "{path}");
        }
        restored.forget(&db).await;
    }
}

#[sqlx::test(migrations = false)]
async fn concepts_of_earlier_versions_give_the_same_images(db: PgPool) {
    for version in RECORDED {
        let restored = Restored::start(&db, version, &[]).await;
        let requests = restored.recorded["requests"].as_object().unwrap();
        let mut compared = 0;
        for (name, request) in requests {
            let old = &restored.recorded["answers"][path_of(request)];
            if old["object"] != "sample" || old["status"] != "succeeded" {
                continue;
            }

            let new = restored.run("/v1/samples", repeated(request, old)).await;

            assert_eq!(new["status"], "succeeded", "{name}: {new}");
            for index in 0..old["images"].as_array().unwrap().len() {
                let url =
                    |sample: &Value| sample["images"][index]["url"].as_str().unwrap().to_owned();
                let (old, new) =
                    (restored.image(&url(old)).await, restored.image(&url(&new)).await);
                let difference = largest_difference(&old, &new);
                let allowed = if restored.is_same_instruction_set() { 0 } else { 3 };
                assert!(difference <= allowed, "{name}: image {index} differs by {difference}");
                compared += 1;
            }
        }
        assert_eq!(compared, 8);
        restored.forget(&db).await;
    }
}

#[sqlx::test(migrations = false)]
async fn work_that_earlier_versions_left_is_done(db: PgPool) {
    for version in RECORDED {
        let restored = Restored::start(&db, version, &[]).await;
        let request = |name: &str| &restored.recorded["requests"][name];

        let training = restored.ended(&path_of(request("queued training"))).await;
        let sample = restored.ended(&path_of(request("sample of a worker that died"))).await;

        assert_eq!(training["status"], "succeeded", "{training}");
        let digest = async |training: &Value| {
            let delta = training["delta"].as_str().unwrap();
            restored.get(&format!("/v1/deltas/{delta}")).await["sha256"].clone()
        };
        let first = restored.get(&path_of(request("training of dog"))).await;
        if restored.is_same_instruction_set() {
            assert_eq!(digest(&training).await, digest(&first).await);
        }
        assert_eq!((&sample["status"], &sample["attempt"]), (&json!("succeeded"), &json!(2)));
        let merge = request("merge")["body"].clone();
        let check = restored.post("/v1/merges/check", &merge).await;
        assert!(check["constraint_error"].as_f64().is_some(), "{check}");
        restored.forget(&db).await;
    }
}

/// Today's program on what a version has left behind.
struct Restored {
    process: Child,
    address: String,
    client: reqwest::Client,
    recorded: Value,
    /// The object store; gone at the end.
    _objects: tempfile::TempDir,
}

impl Restored {
    /// Restores everything and starts `vstar serve` with these options.
    async fn start(db: &PgPool, version: &str, options: &[&str]) -> Self {
        let folder = folder(version);
        let dump = std::fs::read_to_string(folder.join("database.sql")).unwrap();
        sqlx::raw_sql(AssertSqlSafe(dump)).execute(db).await.unwrap();
        if options.contains(&"--no-worker") {
            // Their worker lives, so that jobs which ran are answered as they were.
            let lease = "update job set lease_expires_at = now() + interval '1 hour' where state = 'running'";
            sqlx::query(lease).execute(db).await.unwrap();
        }
        let objects = tempfile::tempdir().unwrap();
        let archive = std::fs::File::open(folder.join("objects.tar.gz")).unwrap();
        let mut unzipped = Vec::new();
        flate2::read::GzDecoder::new(archive).read_to_end(&mut unzipped).unwrap();
        unpack(&unzipped, objects.path());
        let base_model = match folder.join("base-model") {
            kept if kept.is_dir() => kept,
            _ => tiny(),
        };
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_vstar"))
            .args(["serve", "--listen", &port.to_string()])
            .args(options)
            .env("DATABASE_URL", db.connect_options().to_url_lossy().as_str())
            .env("VSTAR_OBJECT_STORE", objects.path())
            .env("VSTAR_BASE_MODEL", base_model)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut restored = Self {
            process,
            address: format!("http://{port}"),
            client: reqwest::Client::new(),
            recorded: read_json(&folder.join("recorded.json")),
            _objects: objects,
        };
        restored.wait_until_it_answers().await;
        restored
    }

    async fn wait_until_it_answers(&mut self) {
        let began = Instant::now();
        while self.client.get(format!("{}/livez", self.address)).send().await.is_err() {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "vstar serve ended with {ended:?}");
            assert!(began.elapsed() < Duration::from_secs(120), "vstar serve does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the program and empties the database for the next version.
    async fn forget(self, db: &PgPool) {
        drop(self);
        let drop_all = "drop schema public cascade; create schema public";
        sqlx::raw_sql(drop_all).execute(db).await.unwrap();
    }

    async fn bytes(&self, path: &str) -> Vec<u8> {
        let answer = self.client.get(format!("{}{path}", self.address)).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        answer.bytes().await.unwrap().to_vec()
    }

    async fn get(&self, path: &str) -> Value {
        serde_json::from_slice(&self.bytes(path).await).unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.client.post(format!("{}{path}", self.address)).json(body);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(answer["code"].is_null(), "{path}: {answer}");
        answer
    }

    async fn run(&self, path: &str, body: Value) -> Value {
        let job = self.post(path, &body).await;
        self.ended(&format!("{path}/{}", job["id"].as_str().unwrap())).await
    }

    async fn ended(&self, path: &str) -> Value {
        let began = Instant::now();
        loop {
            let job = self.get(path).await;
            if ["succeeded", "failed", "canceled"].iter().any(|status| job["status"] == *status) {
                return job;
            }
            assert!(began.elapsed() < Duration::from_secs(240), "{job}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn image(&self, path: &str) -> image::RgbImage {
        image::load_from_memory(&self.bytes(path).await).unwrap().into_rgb8()
    }

    /// Whether sums are formed in the same order here as where the version was recorded.
    fn is_same_instruction_set(&self) -> bool {
        self.recorded["instruction_set"] == instruction_set()
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn instruction_set() -> &'static str {
    if InstructionSet::used() == InstructionSet::Avx512 { "avx512" } else { "other" }
}

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(version)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn path_of(request: &Value) -> String {
    format!("{}/{}", request["path"].as_str().unwrap(), request["id"].as_str().unwrap())
}

/// The request that makes a sample's images again, whatever today's defaults are.
fn repeated(request: &Value, sample: &Value) -> Value {
    let mut body = request["body"].clone();
    for field in [
        "seed",
        "num_inference_steps",
        "guidance_scale",
        "unconditional_strength",
        "guidance_interval",
        "scheduler",
        "eta",
        "width",
        "height",
    ] {
        body[field] = sample[field].clone();
    }
    body
}

fn all_images(answers: &serde_json::Map<String, Value>) -> Vec<&Value> {
    let samples = answers["/v1/samples"]["data"].as_array().unwrap();
    samples.iter().flat_map(|sample| sample["images"].as_array().unwrap()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// The largest difference of two images in any channel, of 255 levels.
fn largest_difference(left: &image::RgbImage, right: &image::RgbImage) -> u8 {
    assert_eq!(left.dimensions(), right.dimensions());
    let levels = left.as_raw().iter().zip(right.as_raw());
    levels.map(|(left, right)| left.abs_diff(*right)).max().unwrap()
}

/// Everything that was said before is still said; more may be.
fn assert_kept(old: &Value, new: &Value, place: &str) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let has_ended = new.get("finished_at").is_some_and(Value::is_string);
            for (name, value) in old {
                if name == "progress" && has_ended {
                    // It used to stay where the last report found it.
                    let progress = &new["progress"];
                    assert!(
                        progress.is_null() || progress["step"] == progress["total_steps"],
                        "{place}: {progress}"
                    );
                    continue;
                }
                let renamed = RENAMED.iter().find(|(before, _)| before == name);
                let kept = new.get(name).or_else(|| new.get(renamed?.1));
                let kept = kept.unwrap_or_else(|| panic!("{place} has lost `{name}`: {new:?}"));
                assert_kept(value, kept, &format!("{place}, {name}"));
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            assert_eq!(old.len(), new.len(), "{place}: {new:?}");
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                assert_kept(old, new, &format!("{place}, {index}"));
            }
        }
        (Value::Number(old), Value::Number(new)) => {
            assert_eq!(old.as_f64(), new.as_f64(), "{place}")
        }
        (
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_),
            _,
        ) => assert_eq!(old, new, "{place}"),
    }
}

/// Unpacks a tar archive of plain files (POSIX ustar).
fn unpack(archive: &[u8], folder: &Path) {
    const BLOCK: usize = 512;
    let text = |field: &[u8]| {
        let field = field.split(|byte| *byte == 0).next().unwrap();
        std::str::from_utf8(field).unwrap().trim().to_owned()
    };
    let mut at = 0;
    while archive[at] != 0 {
        let header = &archive[at..at + BLOCK];
        let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
        let size = usize::from_str_radix(&text(&header[124..136]), 8).unwrap();
        let path = folder.join(prefix).join(name);
        at += BLOCK;
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &archive[at..at + size]).unwrap();
        at += size.next_multiple_of(BLOCK);
    }
}
