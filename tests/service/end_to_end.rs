//! Photos in, images out: the whole service with its worker, a few steps on the tiny base model.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use vstar::app::access::Rates;
use vstar::delta_store::DeltaStore;
use vstar::engine::{BaseModel, Delta, DeltaWeights, kv_weights};
use vstar::evaluator::Evaluator;
use vstar::http::Doors;
use vstar::model_folder::ModelFolder;
use vstar::worker::{LoadedModel, Worker, WorkerConfig};

use crate::harness::{Answer, DELTA_BYTES, Service, evaluator, tiny};

/// A service with a worker.
pub(crate) struct Whole {
    pub(crate) service: Service,
    /// The base model's folder.
    model: PathBuf,
    evaluator: Option<Evaluator>,
    stop_worker: CancellationToken,
    worker: tokio::task::JoinHandle<()>,
}

impl Whole {
    pub(crate) async fn start(db: PgPool) -> Self {
        let poll = Duration::from_millis(100);
        Self::start_with(db, WorkerConfig { poll, ..WorkerConfig::default() }).await
    }

    pub(crate) async fn start_with(db: PgPool, config: WorkerConfig) -> Self {
        Self::start_on(db, tiny(), config).await
    }

    /// A service with a worker on another model than the repository's.
    pub(crate) async fn start_on(db: PgPool, model: PathBuf, config: WorkerConfig) -> Self {
        Self::start_whole(db, model, config, None).await
    }

    /// The same with an evaluator.
    pub(crate) async fn start_with_evaluator(db: PgPool) -> Self {
        let poll = Duration::from_millis(100);
        let config = WorkerConfig { poll, ..WorkerConfig::default() };
        Self::start_whole(db, tiny(), config, Some(evaluator())).await
    }

    async fn start_whole(
        db: PgPool,
        model: PathBuf,
        config: WorkerConfig,
        evaluator: Option<Evaluator>,
    ) -> Self {
        // The API reads the folder by itself: in production it may be another process than the worker.
        let service = Service::with_model(db, &ModelFolder::open(&model).unwrap()).await;
        let service = match &evaluator {
            Some(_) => service.evaluating().await,
            None => service,
        };
        let stop_worker = CancellationToken::new();
        let worker = tokio::spawn(std::future::ready(()));
        let mut whole = Self { service, model, evaluator, stop_worker, worker };
        whole.start_worker(config);
        whole
    }

    /// Serves it to holders of keys alone.
    pub(crate) async fn asking_for_keys(self) -> Self {
        let service = self.service.asking_for_keys(Rates::default(), Doors::default()).await;
        Self { service, ..self }
    }

    pub(crate) fn start_worker(&mut self, config: WorkerConfig) {
        let model = self.model.clone();
        self.start_worker_on(&model, config);
    }

    /// Starts a worker with a folder of its own.
    pub(crate) fn start_worker_on(&mut self, model: &Path, config: WorkerConfig) {
        let model =
            LoadedModel::load(model, "cpu", None).unwrap().with_evaluator(self.evaluator.clone());
        let (db, storage) = (self.service.db.clone(), self.service.storage.clone());
        let deltas = DeltaStore::new(storage.clone(), (&model.folder).into(), DELTA_BYTES);
        let worker = Worker::new(db, storage, deltas, model, config).unwrap();
        self.worker = tokio::spawn(worker.run(self.stop_worker.clone()));
    }

    /// Waits until the worker has ended by itself.
    pub(crate) async fn worker_ended(mut self) -> Result<(), tokio::task::JoinError> {
        (&mut self.worker).await
    }

    /// Ends the worker as a crash would: it hands nothing back.
    pub(crate) async fn kill_worker(&mut self) {
        self.worker.abort();
        let _ = (&mut self.worker).await;
    }

    /// Ends the worker in order: it hands back what it has.
    pub(crate) async fn end_worker(&mut self) {
        self.stop_worker.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), &mut self.worker).await;
        ended.expect("the worker did not end").unwrap();
        self.stop_worker = CancellationToken::new();
    }

    /// Creates a concept with the photos of a folder of the demo.
    pub(crate) async fn concept(&self, folder: &str, modifier_token: Option<&str>) {
        self.service.concept(folder, modifier_token, folder).await;
        let dir = tiny().join("../../demo/concepts").join(folder);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            files.push(("photo.jpg", std::fs::read(entry.unwrap().path()).unwrap()));
        }
        let answer = self.service.upload(&format!("/v1/concepts/{folder}/images"), files).await;
        assert_eq!(answer.body["rejected"], 0, "{answer:?}");
    }

    /// Starts a job and waits until it has ended.
    pub(crate) async fn run(&self, path: &str, body: Value) -> Answer {
        let started = self.service.post(path, body).await;
        assert_eq!(started.status, 202, "{started:?}");
        self.wait(started.header("location"), |status| status != "queued" && status != "running")
            .await
    }

    pub(crate) async fn wait(&self, path: &str, until: impl Fn(&str) -> bool) -> Answer {
        self.wait_for(path, |job| until(&job.text("status"))).await
    }

    pub(crate) async fn wait_for(&self, path: &str, until: impl Fn(&Answer) -> bool) -> Answer {
        let began = Instant::now();
        loop {
            let job = self.service.get(path).await;
            if until(&job) {
                return job;
            }
            assert!(began.elapsed() < Duration::from_secs(240), "{job:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs a sample and returns its PNGs.
    pub(crate) async fn images(&self, body: Value) -> Vec<Vec<u8>> {
        let sample = self.run("/v1/samples", body).await;
        assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
        let mut images = Vec::new();
        for image in sample.body["images"].as_array().unwrap() {
            images.push(self.service.get(image["url"].as_str().unwrap()).await.bytes);
        }
        images
    }

    pub(crate) async fn train(&self, concepts: Value) -> Answer {
        let recipe = json!({
            "max_train_steps": 3, "instance_batch_size": 2, "class_batch_size": 2, "num_class_images": 8,
        });
        let training = self
            .run("/v1/trainings", json!({ "concepts": concepts, "recipe": recipe, "seed": 1 }))
            .await;
        assert_eq!(training.text("status"), "succeeded", "{training:?}");
        training
    }

    pub(crate) async fn end(self) {
        self.stop_worker.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.worker).await.unwrap().unwrap();
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn photos_become_a_concept_and_a_concept_becomes_images(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    whole.concept("gate", None).await;

    let dog = whole.train(json!(["dog"])).await;
    let gate = whole.train(json!(["gate"])).await;

    // The training says what it did, and its delta is the concept's.
    let delta = dog.text("delta");
    let curve = whole.service.get(&format!("/v1/trainings/{}/metrics", dog.text("id"))).await;
    let steps: Vec<_> = curve.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["step"].as_i64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2, 3]);
    assert_eq!(whole.service.get("/v1/concepts/dog").await.body["current_delta"], delta.as_str());
    let content = whole.service.get(&format!("/v1/deltas/{delta}/content")).await;
    assert_eq!(content.header("content-type"), "application/vnd.safetensors");
    Delta::from_safetensors(&content.bytes).unwrap();

    // Alone, merged on the way, and merged for good.
    let sample = |prompt: &str, concepts: Value| {
        let body = json!({
            "prompt": prompt, "concepts": concepts, "num_inference_steps": 2, "n": 2, "seed": 5, "width": 48,
        });
        whole.run("/v1/samples", body)
    };
    let alone = sample("photo of a <rex> dog", json!([])).await;
    let both = sample("a <rex> dog in front of a gate", json!([{ "concept": "gate" }])).await;
    let merge = json!({ "concepts": [{ "delta": delta }, { "delta": gate.text("delta") }] });
    let merge = whole.run("/v1/merges", merge).await;
    assert_eq!(merge.text("status"), "succeeded", "{merge:?}");
    let merged =
        sample("a <rex> dog in front of a gate", json!([{ "delta": merge.text("delta") }])).await;
    for sample in [&alone, &both, &merged] {
        assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
        let images = sample.body["images"].as_array().unwrap();
        assert_eq!(images.len(), 2);
        for image in images {
            let content = whole.service.get(image["url"].as_str().unwrap()).await;
            let image = image::load_from_memory(&content.bytes).unwrap();
            assert_eq!((image.width(), image.height()), (48, 64));
        }
    }

    // The same request gives the same bytes.
    let again = sample("photo of a <rex> dog", json!([])).await;
    for index in 0..2 {
        assert_eq!(again.body["images"][index]["sha256"], alone.body["images"][index]["sha256"]);
    }
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_client_that_waits_gets_its_images_at_once(db: PgPool) {
    let whole = Whole::start(db).await;

    let body = json!({ "prompt": "a dog", "num_inference_steps": 1 });
    let request = whole.service.request(reqwest::Method::POST, "/v1/samples").json(&body);
    let sample = whole.service.send(request.header("prefer", "wait=30")).await;

    assert_eq!((sample.status, sample.header("preference-applied")), (201, "wait"), "{sample:?}");
    assert_eq!(sample.body["images"].as_array().unwrap().len(), 1);
    assert_eq!(whole.service.get(sample.header("location")).await.body, sample.body);
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn two_concepts_are_learnt_jointly(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    whole.concept("cat", Some("<tom>")).await;

    let training = whole.train(json!(["dog", "cat"])).await;

    let delta = whole.service.get(&format!("/v1/deltas/{}", training.text("delta"))).await;
    assert_eq!(delta.body["concepts"].as_array().unwrap().len(), 2);
    let body = json!({ "prompt": "a <rex> dog next to a <tom> cat", "num_inference_steps": 1 });
    let sample = whole.run("/v1/samples", body).await;
    assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
    assert_eq!(sample.body["deltas"].as_array().unwrap().len(), 1, "one delta holds both");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn deltas_are_checked_merged_and_downloaded_whole(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    whole.concept("cat", Some("<tom>")).await;
    whole.concept("gate", None).await;
    let joint = whole.train(json!(["dog", "cat"])).await.text("delta");
    let gate = whole.train(json!(["gate"])).await.text("delta");
    let concepts = json!([{ "delta": joint }, { "concept": "gate", "strength": 0.5 }]);

    // The answer to a check comes from what the trainings stored; no job is queued for it.
    let before = whole.service.contents().await;
    let check = whole.service.post("/v1/merges/check", json!({ "concepts": concepts })).await;
    assert_eq!(check.status, 200, "{check:?}");
    assert_eq!(whole.service.contents().await, before);
    assert_eq!(check.body["pairs"][0]["deltas"], json!([joint, gate]));
    assert_eq!(check.body["deltas"][1]["strength"], 0.5);
    assert_eq!(
        (&check.body["method"], &check.body["constraint_weight"]),
        (&"soft".into(), &1000.0.into())
    );
    for number in ["constraint_error", "drift", "condition"] {
        assert!(check.body[number].as_f64().unwrap() > 0.0, "{number} of {check:?}");
    }
    let kept = |delta: usize| check.body["deltas"][delta]["kept_after_other"].as_f64().unwrap();
    assert_eq!(check.body["pairs"][0]["kept_after_other"], kept(0).min(kept(1)));
    for recommended in [&check.body["recommended"], &check.body["pairs"][0]["recommended"]] {
        assert_eq!(recommended["method"], "regional", "{check:?}");
    }
    let softer = json!({ "concepts": concepts, "constraint_weight": 1.0 });
    let softer = whole.service.post("/v1/merges/check", softer).await;
    let number = |answer: &Answer, name: &str| answer.body[name].as_f64().unwrap();
    assert!(number(&softer, "constraint_error") > number(&check, "constraint_error"));
    assert!(number(&softer, "drift") < number(&check, "drift"));

    // Captions that nobody has encoded yet are encoded by the first merge over them.
    let captions: Vec<String> = (0..40)
        .map(|n| {
            format!(
                "a {} house number {n} in the {}",
                ["red", "blue"][n % 2],
                ["snow", "desert", "sea"][n % 3]
            )
        })
        .collect();
    let with_captions = json!({ "concepts": concepts, "captions": captions, "method": "soft" });
    let unknown = whole.service.post("/v1/merges/check", with_captions.clone()).await;
    assert_eq!(unknown.problem(), (409, "captions_not_encoded", vec!["/captions"]));
    let merge = whole.run("/v1/merges", with_captions.clone()).await;
    assert_eq!(merge.text("status"), "succeeded", "{merge:?}");
    assert_eq!(merge.body["captions"], json!(captions));
    assert_eq!(whole.service.post("/v1/merges/check", with_captions).await.status, 200);

    // Factors as they are stored, or whole matrices, which are the same numbers.
    let delta = merge.text("delta");
    let native = whole.service.get(&format!("/v1/deltas/{delta}/content")).await;
    let dense = whole.service.get(&format!("/v1/deltas/{delta}/content?format=dense")).await;
    assert_ne!(native.header("etag"), dense.header("etag"));
    let native = Delta::from_safetensors(&native.bytes).unwrap();
    let dense = Delta::from_safetensors(&dense.bytes).unwrap();
    let DeltaWeights::Dense(matrices) = &dense.weights else { panic!("{:?}", dense.concepts) };
    assert!(matches!(native.weights, DeltaWeights::LowRank { .. }));
    let base = kv_weights(
        BaseModel::load(&tiny(), &candle_core::Device::Cpu).unwrap().unet.cross_attention(),
    );
    for (name, matrix) in native.weights.densify(&base).unwrap() {
        let numbers =
            |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (kept, exact) in numbers(&matrices[&name]).iter().zip(numbers(&matrix)) {
            assert!((kept - exact).abs() <= exact.abs() / 1024.0 + 1e-6, "{name}: {kept} {exact}");
        }
    }

    // A sample takes the same options, and says what they were. The check is asked first, so that the sample need not wait for
    // its forecast.
    let options = json!({ "constraint_weight": 50, "protect": ["empty_prompt"] });
    let mut check = json!({ "concepts": [{ "concept": "gate" }, { "concept": "dog" }] });
    check.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    assert_eq!(whole.service.post("/v1/merges/check", check).await.body["verdict"], "risky");
    let sample = whole
        .run(
            "/v1/samples",
            json!({
                "prompt": "a <rex> dog and a gate", "concepts": [{ "concept": "gate" }], "num_inference_steps": 1,
                "merge": options,
            }),
        )
        .await;
    assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
    assert_eq!(
        sample.body["merge"],
        json!({ "method": "soft", "constraint_weight": 50.0, "captions": null, "protect": ["empty_prompt"] })
    );

    // The merge is one that check calls risky, so the sample says it too, now and later; the concept alone has nothing to say.
    let warnings = &sample.body["warnings"];
    let of_merge =
        warnings.as_array().unwrap().iter().find(|warning| warning["code"] == "merge_risky");
    assert_eq!(of_merge.unwrap()["pointer"], "/composition", "{sample:?}");
    let again = whole.service.get(&format!("/v1/samples/{}", sample.text("id"))).await;
    assert_eq!(&again.body["warnings"], warnings);
    let alone = json!({ "prompt": "a <rex> dog", "num_inference_steps": 1 });
    let alone = whole.run("/v1/samples", alone).await;
    let codes: Vec<&Value> =
        alone.body["warnings"].as_array().unwrap().iter().map(|warning| &warning["code"]).collect();
    assert_eq!(codes, [&json!("value_unusual")], "of its one step");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_running_training_lets_samples_in_and_stops_when_asked(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    let recipe = json!({ "max_train_steps": 100_000, "num_class_images": 8 });
    let started =
        whole.service.post("/v1/trainings", json!({ "concepts": ["dog"], "recipe": recipe })).await;
    let path = started.header("location").to_owned();
    whole.wait(&path, |status| status == "running").await;

    let sample =
        whole.run("/v1/samples", json!({ "prompt": "a dog", "num_inference_steps": 1 })).await;
    assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
    assert_eq!(whole.service.get(&path).await.text("status"), "running");
    whole.service.post(&format!("{path}/cancel"), json!({})).await;
    let ended = whole.wait(&path, |status| status != "running" && status != "canceling").await;

    assert_eq!(ended.text("status"), "canceled");
    assert_eq!(ended.body["delta"], json!(null));
    assert_eq!(whole.service.get("/v1/concepts/dog").await.body["current_delta"], json!(null));
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_worker_that_ends_hands_its_training_back(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    let recipe = json!({ "max_train_steps": 100_000, "num_class_images": 8 });
    let started =
        whole.service.post("/v1/trainings", json!({ "concepts": ["dog"], "recipe": recipe })).await;
    let path = started.header("location").to_owned();
    whole.wait(&path, |status| status == "running").await;

    whole.stop_worker.cancel();
    let training = whole.wait(&path, |status| status != "running").await;

    assert_eq!(
        (training.text("status").as_str(), training.body["attempt"].as_i64()),
        ("queued", Some(1))
    );
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_that_the_engine_refuses_keeps_its_error(db: PgPool) {
    let mut whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;

    // The request is checked, so what the engine cannot do has to come from a task that was written by something else.
    whole.kill_worker().await;
    let started = whole.service.post("/v1/trainings", json!({ "concepts": ["dog"] })).await;
    let unknown = "update job set task = jsonb_set(task, '{recipe,initializer_tokens}', '[\"nosuchpieceofaword\"]') \
        where state = 'queued'";
    sqlx::query(unknown).execute(&whole.service.db).await.unwrap();
    whole.start_worker_on(&tiny(), WorkerConfig::default());
    let path = started.header("location");
    let training = whole.wait(path, |status| status != "queued" && status != "running").await;

    assert_eq!(training.text("status"), "failed", "{training:?}");
    assert_eq!(training.body["error"]["code"], "invalid_input");
    assert_eq!(training.body["error"]["retryable"], false);
    assert!(
        training.body["error"]["detail"].as_str().unwrap().contains("nosuchpieceofaword"),
        "{training:?}"
    );
    whole.end().await;
}
