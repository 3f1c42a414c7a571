//! Class images are named in the task: whichever worker trains, the delta is the same.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::worker::WorkerConfig;

use crate::end_to_end::Whole;
use crate::faults::copy;
use crate::harness::{Answer, png, tiny};

fn config() -> WorkerConfig {
    WorkerConfig { poll: Duration::from_millis(100), ..WorkerConfig::default() }
}

async fn start_training(whole: &Whole) -> String {
    let recipe = json!({ "max_train_steps": 2, "instance_batch_size": 1, "class_batch_size": 2, "num_class_images": 4 });
    let body = json!({ "concepts": ["dog"], "recipe": recipe, "seed": 1 });
    let started = whole.service.post("/v1/trainings", body).await;
    assert_eq!(started.status, 202, "{started:?}");
    started.header("location").to_owned()
}

async fn trained(whole: &Whole, path: &str) -> Answer {
    let ended = |status: &str| !["queued", "running"].contains(&status);
    let training = whole.wait(path, ended).await;
    assert_eq!(training.text("status"), "succeeded", "{training:?}");
    training
}

/// The digest of the newest delta.
async fn newest_delta(db: &PgPool) -> String {
    let query = "select sha256 from delta order by delta_id desc limit 1";
    sqlx::query_scalar(query).fetch_one(db).await.unwrap()
}

/// A copy of the model whose class images are a folder with only every other one.
fn thin_out(model: &Path) {
    copy(&tiny(), model);
    let folder = model.join("class_images");
    let zip = fs::File::open(tiny().join("class_images.zip")).unwrap();
    zip::ZipArchive::new(zip).unwrap().extract(&folder).unwrap();
    let metadata = folder.join("metadata.jsonl");
    let lines = fs::read_to_string(&metadata).unwrap();
    let kept: Vec<&str> = lines.lines().step_by(2).collect();
    fs::write(metadata, kept.join("\n")).unwrap();
    let profile = model.join("vstar.json");
    let settings = fs::read_to_string(&profile).unwrap();
    fs::write(profile, settings.replace("class_images.zip", "class_images")).unwrap();
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn two_workers_with_different_folders_train_the_same_delta_from_one_task(db: PgPool) {
    let other = tempfile::tempdir().unwrap();
    thin_out(other.path());
    let mut whole = Whole::start_with(db, config()).await;
    whole.concept("dog", Some("<rex>")).await;

    trained(&whole, &start_training(&whole).await).await;
    let by_one = newest_delta(&whole.service.db).await;
    whole.kill_worker().await;
    whole.start_worker_on(other.path(), config());
    trained(&whole, &start_training(&whole).await).await;
    let by_the_other = newest_delta(&whole.service.db).await;

    assert_eq!(by_one, by_the_other);

    // A task from before there were sets has none: it gets what its worker's own folder has.
    whole.kill_worker().await;
    let path = start_training(&whole).await;
    let from_before = r#"update job set task = (task - 'regularization') || '{"version": 2, "class_images": "auto"}'
        where state = 'queued'"#;
    sqlx::query(from_before).execute(&whole.service.db).await.unwrap();
    whole.start_worker_on(other.path(), config());
    trained(&whole, &path).await;
    assert_ne!(newest_delta(&whole.service.db).await, by_one, "the folders are alike: no proof");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_set_that_is_not_what_the_task_names_fails_the_training(db: PgPool) {
    let whole = Whole::start_with(db, config()).await;
    whole.concept("dog", Some("<rex>")).await;
    let set = vstar::model_folder::ModelFolder::open(&tiny()).unwrap().info.class_image_set.clone();
    let key = vstar::storage::StorageKey::stored(&set.unwrap().storage_key);
    let mut bytes = whole.service.storage.read(&key).await.unwrap().to_vec();
    bytes[10_000] ^= 1;
    whole.service.storage.replace(&key, bytes).await.unwrap();

    let path = start_training(&whole).await;
    let failed = whole.wait(&path, |status| !["queued", "running"].contains(&status)).await;

    assert_eq!(failed.text("status"), "failed", "{failed:?}");
    assert_eq!(failed.body["error"]["code"], "object_damaged");
    assert!(failed.body["error"]["detail"].as_str().unwrap().contains("SHA-256"), "{failed:?}");
    whole.end().await;
}

/// A copy of the model with a folder of a few class images, all of one caption.
fn with_one_caption(model: &Path, caption: &str) {
    copy(&tiny(), model);
    let dir = model.join("own_class_images");
    fs::create_dir(&dir).unwrap();
    let mut metadata = String::new();
    for index in 0..6 {
        fs::write(dir.join(format!("{index}.png")), png(64, 64, index)).unwrap();
        let line = json!({ "file_name": format!("{index}.png"), "text": caption });
        metadata += &format!("{line}\n");
    }
    fs::write(dir.join("metadata.jsonl"), metadata).unwrap();
    let path = model.join("vstar.json");
    let mut profile: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    profile["class_images"] = json!("own_class_images");
    fs::write(path, profile.to_string()).unwrap();
}

/// Their captions do not span the text space, so merges cannot preserve it. Trainings do not need that.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn class_images_of_one_caption_or_none_train(db: PgPool) {
    for caption in ["photo of a dog", ""] {
        let model = tempfile::tempdir().unwrap();
        with_one_caption(model.path(), caption);
        let whole = Whole::start_on(db.clone(), model.path().to_owned(), config()).await;
        let handle = format!("dog{}", caption.len());
        whole.service.concept_with_photos(&handle, 4).await;

        let recipe =
            json!({ "max_train_steps": 2, "instance_batch_size": 1, "class_batch_size": 1 });
        for class_images in ["auto", "none"] {
            let body =
                json!({ "concepts": [handle], "recipe": recipe, "class_images": class_images });
            let training = whole.run("/v1/trainings", body).await;

            assert_eq!(training.text("status"), "succeeded", "{training:?}");
            let delta = whole.service.get(&format!("/v1/deltas/{}", training.text("delta"))).await;
            assert_eq!(delta.body["merge_error"], Value::Null, "its pack needs no captions");
        }
        whole.end().await;
    }
}
