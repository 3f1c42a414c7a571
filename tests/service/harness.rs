//! A running service and a client for it.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use image::{ImageFormat, RgbImage};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use reqwest::header::HeaderMap;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use vstar::app::App;
use vstar::app::access::{Access, Pepper, Rates};
use vstar::app::upload_memory::UploadLimits;
use vstar::db;
use vstar::db::job::Capacity;
use vstar::delta_store::{BaseModelRef, DeltaStore};
use vstar::domain::base_model::SamplingDefaults;
use vstar::domain::checkpoint::Checkpoint;
use vstar::domain::id::{ConceptId, DeltaId, JobId};
use vstar::domain::job::{DEFAULT_QUEUE_LIMIT, JobKind, LeasedJob, Task};
use vstar::domain::model_info::ModelInfo;
use vstar::domain::training::TrainingRecipe;
use vstar::domain::webhook::url::Receivers;
use vstar::engine::VERSION;
use vstar::engine::clip::ClipTokenizer;
use vstar::engine::schedulers::{SchedulerConfig, check_steps, limits};
use vstar::engine::weights::read_json;
use vstar::evaluator::Evaluator;
use vstar::http::{Doors, router_behind};
use vstar::model_folder::ModelFolder;
use vstar::storage::{Storage, StorageKey};

use crate::described;
use crate::faulty_store::FaultyStore;

/// Digest of the base model that the tests without an engine pretend to have.
pub(crate) const DIGEST: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Memory for deltas of a test's API or worker.
pub(crate) const DELTA_BYTES: usize = 256 << 20;

pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny")
}

/// A service on a port of its own; it ends with the test.
pub(crate) struct Service {
    pub(crate) db: PgPool,
    pub(crate) storage: Storage,
    app: App,
    objects: Arc<InMemory>,
    /// Can be told to fail or to stall.
    pub(crate) store: Arc<FaultyStore>,
    client: reqwest::Client,
    address: String,
    /// Sent with every request, if the service asks for keys.
    key: Option<String>,
    shutdown: CancellationToken,
}

/// What the service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
    /// The body if it is JSON, else null.
    pub(crate) body: Value,
}

impl Answer {
    /// The answer's `code` and the pointers of its errors.
    pub(crate) fn problem(&self) -> (u16, &str, Vec<&str>) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        assert_eq!(self.body["request_id"].as_str(), Some(self.header("x-request-id")), "{self:?}");
        assert!(!self.body["detail"].as_str().unwrap().is_empty(), "{self:?}");
        let errors = self.body["errors"].as_array().unwrap();
        let pointers = errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        (self.status, self.body["code"].as_str().unwrap(), pointers)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.body[name].as_str().unwrap_or_else(|| panic!("{name} of {self:?}")).to_owned()
    }
}

impl Service {
    /// A service without a worker, on the tokenizer and limits of the tiny model.
    pub(crate) async fn start(db: PgPool) -> Self {
        Self::with_queue_limit(db, DEFAULT_QUEUE_LIMIT).await
    }

    /// The same with so many places in each queue.
    pub(crate) async fn with_queue_limit(db: PgPool, queue_limit: usize) -> Self {
        Self::with(db, Arc::new(Self::tiny_info()), BaseModelRef::default(), queue_limit, None)
            .await
    }

    /// The same on a given object store.
    pub(crate) async fn with_storage(db: PgPool, storage: Storage) -> Self {
        let info = Arc::new(Self::tiny_info());
        Self::with(db, info, BaseModelRef::default(), DEFAULT_QUEUE_LIMIT, Some(storage)).await
    }

    /// The same with a small evaluator of random weights.
    pub(crate) async fn with_evaluator(db: PgPool) -> Self {
        Self::start(db).await.evaluating().await
    }

    /// Another process with an evaluator, on the same database and objects.
    pub(crate) async fn beside(other: &Self) -> Self {
        let service = Self::with_storage(other.db.clone(), other.storage.clone()).await;
        service.evaluating().await
    }

    /// Serves it with an evaluator, on another port.
    pub(crate) async fn evaluating(mut self) -> Self {
        self.app = self.app.clone().with_evaluator(Some(evaluator()));
        self.address = serve(&self.app).await;
        self
    }

    /// Serves it with other limits of uploads, on another port.
    pub(crate) async fn limiting_uploads(mut self, limits: UploadLimits) -> Self {
        self.app = self.app.clone().with_upload_limits(limits);
        self.address = serve(&self.app).await;
        self
    }

    /// Serves it with private receivers of webhooks allowed, on another port.
    pub(crate) async fn allowing_private_webhooks(mut self) -> Self {
        self.app = self.app.clone().with_receivers(Receivers::Any);
        self.address = serve(&self.app).await;
        self
    }

    /// Serves it as a process that is not ready while more jobs of a kind wait, on another port.
    pub(crate) async fn ready_below(mut self, depth: usize) -> Self {
        self.app = self.app.clone().with_ready_queue_depth(Some(depth));
        self.address = serve(&self.app).await;
        self
    }

    /// Serves it to holders of keys alone, on another port, and sends the first key with every request.
    pub(crate) async fn asking_for_keys(mut self, rates: Rates, doors: Doors) -> Self {
        let access = Access::by_keys(Pepper::generate().unwrap(), rates);
        self.app = self.app.clone().with_access(access);
        self.key = self.app.issue_first_key().await.unwrap().map(|first| first.text);
        self.address = serve_behind(&self.app, doors).await;
        self
    }

    /// Makes a key of a new project with these scopes; returns both.
    pub(crate) async fn project_with_key(&self, name: &str, scopes: &[&str]) -> (String, String) {
        let project = self.post("/v1/projects", json!({ "name": name })).await;
        assert_eq!(project.status, 201, "{project:?}");
        let body = json!({ "name": name, "project": project.text("id"), "scopes": scopes });
        let key = self.post("/v1/api-keys", body).await;
        assert_eq!(key.status, 201, "{key:?}");
        (project.text("id"), key.text("secret"))
    }

    /// Lists the model's class images, as a process that starts does.
    pub(crate) async fn list_class_images(&self, folder: &ModelFolder) {
        self.app.list_class_images(&folder.class_images).await.unwrap();
    }

    fn tiny_info() -> ModelInfo {
        let tokenizer = Arc::new(ClipTokenizer::load(&tiny().join("tokenizer")).unwrap());
        let vocabulary = tokenizer.clone();
        let scheduler: SchedulerConfig =
            read_json(&tiny().join("scheduler/scheduler_config.json")).unwrap();
        ModelInfo {
            name: "tiny".to_owned(),
            digest: DIGEST.into(),
            size_multiple: 4,
            native_size: 64,
            max_prompt_tokens: tokenizer.max_length(),
            num_train_timesteps: 1000,
            schedulers: limits(&scheduler),
            recipe: TrainingRecipe::paper(),
            sampling: SamplingDefaults::paper(),
            has_class_images: true,
            class_image_set: None,
            count_tokens: Box::new(move |text, added| {
                tokenizer.encode(text, added).unwrap().length
            }),
            check_steps: check_steps(&scheduler),
            has_token: Box::new(move |token| vocabulary.has_token(token)),
            training_memory: Box::new(|_| 0),
        }
    }

    /// A service for a given model; the caller runs the worker.
    pub(crate) async fn with_model(db: PgPool, folder: &ModelFolder) -> Self {
        let base = BaseModelRef::from(folder);
        let info = folder.info.clone();
        let service = Self::with(db, info, base, DEFAULT_QUEUE_LIMIT, None).await;
        folder.publish_class_images(&service.storage).await.unwrap();
        service.list_class_images(folder).await;
        service
    }

    async fn with(
        db: PgPool,
        info: Arc<ModelInfo>,
        base: BaseModelRef,
        queue_limit: usize,
        storage: Option<Storage>,
    ) -> Self {
        let objects = Arc::new(InMemory::new());
        let store = Arc::new(FaultyStore::new(objects.clone()));
        let storage = storage.unwrap_or_else(|| Storage::new(store.clone()));
        let shutdown = CancellationToken::new();
        let deltas = DeltaStore::new(storage.clone(), base, DELTA_BYTES);
        let app = App::new(db.clone(), storage.clone(), info, deltas, shutdown.clone())
            .with_queue_limit(queue_limit);
        let address = serve(&app).await;
        let (client, key) = (reqwest::Client::new(), None);
        Self { db, storage, app, objects, store, client, address, key, shutdown }
    }

    pub(crate) fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.request_without_key(method, path);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub(crate) fn request_without_key(
        &self,
        method: reqwest::Method,
        path: &str,
    ) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.address))
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = client.execute(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.unwrap().to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let answer = Answer { status, headers, bytes, body };
        described::check(method.as_str(), &path, &answer);
        answer
    }

    /// Sends the fields of a form, and does not follow where the answer leads.
    pub(crate) async fn submit(&self, path: &str, form: &str) -> Answer {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let request = client.build().unwrap().post(format!("{}{path}", self.address));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(form.to_owned())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(reqwest::Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(reqwest::Method::POST, path).json(&body)).await
    }

    /// Uploads files under their names.
    pub(crate) async fn upload(&self, path: &str, files: Vec<(&str, Vec<u8>)>) -> Answer {
        let form = files.into_iter().fold(Form::new(), |form, (name, file)| {
            form.part("files", Part::bytes(file).file_name(name.to_owned()))
        });
        self.send(self.request(reqwest::Method::POST, path).multipart(form)).await
    }

    /// Uploads an image to start samples from.
    pub(crate) async fn upload_image(&self, file: Vec<u8>) -> Answer {
        let form = Form::new().part("file", Part::bytes(file).file_name("a.png"));
        self.send(self.request(reqwest::Method::POST, "/v1/images").multipart(form)).await
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Creates a concept and returns its id.
    pub(crate) async fn concept(
        &self,
        handle: &str,
        modifier_token: Option<&str>,
        class_noun: &str,
    ) -> String {
        let body =
            json!({ "handle": handle, "modifier_token": modifier_token, "class_noun": class_noun });
        let answer = self.post("/v1/concepts", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.text("id")
    }

    /// Creates a concept with so many photos and returns its id.
    pub(crate) async fn concept_with_photos(&self, handle: &str, photos: u8) -> String {
        let id = self.concept(handle, Some(&format!("<{handle}>")), "dog").await;
        let files = (0..photos).map(|shade| ("photo.png", png(64, 48, shade))).collect();
        let answer = self.upload(&format!("/v1/concepts/{id}/images"), files).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        id
    }

    /// Creates a concept that has been trained, for a base model, without training it; returns it and its delta.
    pub(crate) async fn trained_concept(
        &self,
        handle: &str,
        base_digest: &str,
    ) -> (String, String) {
        let id = self.concept_with_photos(handle, 4).await;
        let delta_id = self.train_without_worker(handle, base_digest).await;
        (id, delta_id.to_string())
    }

    /// Starts a training and ends it at once with a delta that has no object.
    pub(crate) async fn train_without_worker(&self, handle: &str, base_digest: &str) -> DeltaId {
        let answer = self.post("/v1/trainings", json!({ "concepts": [handle] })).await;
        let concept_id = answer.body["concepts"][0]["id"].as_str().unwrap();
        self.finish_training(&answer.text("id"), concept_id, base_digest).await
    }

    /// Does what a worker does at the end of a training.
    async fn finish_training(
        &self,
        training_id: &str,
        concept_id: &str,
        base_digest: &str,
    ) -> DeltaId {
        let job_id: JobId = training_id.parse::<vstar::domain::id::TrainingId>().unwrap().into();
        let concept_id: ConceptId = concept_id.parse().unwrap();
        let leased = lease(&self.db, "test", std::time::Duration::from_secs(60)).await.unwrap();
        assert_eq!(leased.job_id, job_id);
        assert!(db::job::succeed(&self.db, job_id, leased.fence).await.unwrap());
        self.record_delta(job_id, concept_id, base_digest).await
    }

    /// Records a delta of a job that has no object.
    pub(crate) async fn record_delta(
        &self,
        job_id: JobId,
        concept_id: ConceptId,
        base_digest: &str,
    ) -> DeltaId {
        let delta_id = DeltaId::generate();
        let row = db::delta::NewDelta {
            delta_id,
            job_id,
            base_digest,
            storage_key: &format!("jobs/{job_id}/delta"),
            size_bytes: 3,
            sha256: "abc",
        };
        db::delta::record(&self.db, row).await.unwrap();
        db::delta::record_concepts(&self.db, delta_id, &[concept_id]).await.unwrap();
        let by = vstar::domain::promotion::Promoter::Job;
        db::promotion::promote(&self.db, &[concept_id], delta_id, by, false).await.unwrap();
        delta_id
    }

    /// Everything that a request could have changed: the number of rows per table, and of objects.
    pub(crate) async fn contents(&self) -> Vec<(&'static str, i64)> {
        let mut contents = Vec::new();
        for (table, query) in [
            ("concept", "select count(*) from concept"),
            ("image", "select count(*) from image"),
            ("job", "select count(*) from job"),
            ("job_event", "select count(*) from job_event"),
            ("delta", "select count(*) from delta"),
            ("image_set", "select count(*) from image_set"),
            ("image_set_image", "select count(*) from image_set_image"),
        ] {
            let count: i64 = sqlx::query_scalar(query).fetch_one(&self.db).await.unwrap();
            contents.push((table, count));
        }
        let objects: Vec<_> = self.objects.list(None).try_collect().await.unwrap();
        contents.push(("objects", objects.len() as i64));
        contents
    }
}

/// Serves the API on a port of its own and returns its address.
async fn serve(app: &App) -> String {
    serve_behind(app, Doors::default()).await
}

async fn serve_behind(app: &App, doors: Doors) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = router_behind(app.clone(), doors);
    tokio::spawn(async move { axum::serve(listener, served).await });
    address
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A PNG that differs from those of other shades.
pub(crate) fn png(width: u32, height: u32, shade: u8) -> Vec<u8> {
    encoded(width, height, shade, ImageFormat::Png)
}

pub(crate) fn encoded(width: u32, height: u32, shade: u8, format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([shade, x as u8, y as u8]));
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// A small evaluator of random weights.
pub(crate) fn evaluator() -> Evaluator {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/clip_openai/model");
    Evaluator::load(&dir, "cpu").unwrap()
}

/// Leases the next job of any kind.
pub(crate) async fn lease(
    db: &PgPool,
    worker: &str,
    lease: std::time::Duration,
) -> Option<vstar::domain::job::LeasedJob> {
    let kinds = &[JobKind::Training, JobKind::Merge, JobKind::Sample];
    let capacity = Capacity {
        worker,
        kinds,
        base_digest: DIGEST,
        evaluator_digest: None,
        memory_mib: None,
        batch_elements: 1,
        lease,
    };
    db::job::lease_next(db, capacity).await.unwrap().pop()
}

/// Leases the next job of one kind, as a worker with this evaluator.
pub(crate) async fn lease_of(db: &PgPool, kind: JobKind, evaluator: &str) -> Option<LeasedJob> {
    let lease = std::time::Duration::from_secs(60);
    let capacity = Capacity {
        worker: "test",
        kinds: &[kind],
        base_digest: DIGEST,
        evaluator_digest: Some(evaluator),
        memory_mib: None,
        batch_elements: 1,
        lease,
    };
    db::job::lease_next(db, capacity).await.unwrap().pop()
}

/// A job that nobody will run.
pub(crate) fn any_task() -> Task {
    serde_json::from_value(
        json!({ "kind": "merge", "base_digest": DIGEST, "deltas": [], "concepts": [] }),
    )
    .unwrap()
}

/// A checkpoint that has no object.
pub(crate) fn any_checkpoint(job_id: JobId, fence: i64, step: i32) -> Checkpoint {
    Checkpoint {
        step,
        storage_key: StorageKey::checkpoint(job_id, fence, step as usize),
        size_bytes: 1,
        sha256: "a".into(),
        input_digest: "b".into(),
        engine_version: VERSION.to_owned(),
        created_at: chrono::Utc::now(),
    }
}

/// Records that a job got further, under this fence; returns whether that counted.
pub(crate) async fn advance(db: &PgPool, job_id: JobId, fence: i64, step: i32) -> bool {
    let checkpoint = any_checkpoint(job_id, fence, step);
    db::checkpoint::record(db, job_id, fence, &checkpoint).await.unwrap().is_some()
}
