//! The same picture again, and what it looks like on the way.

use std::io::{Cursor, Write};
use std::time::Duration;

use image::ImageFormat;
use image::imageops::FilterType;
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::domain::manifest::Manifest;
use vstar::worker::WorkerConfig;

use crate::end_to_end::Whole;
use crate::harness::{Answer, png};

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_picture_is_drawn_again_from_what_it_carries(db: PgPool) {
    let mut whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    whole.concept("gate", None).await;
    whole.train(json!(["dog"])).await;
    whole.train(json!(["gate"])).await;
    let common = json!({ "prompt": "photo of a <rex> dog", "num_inference_steps": 3, "seed": 5, "height": 48 });
    let asked = |more: Value| {
        let mut body = common.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let first = whole.pictures(asked(json!({ "n": 3 }))).await;
    let upload =
        image::load_from_memory(&first[1]).unwrap().resize_exact(90, 64, FilterType::Nearest);
    let mut file = Cursor::new(Vec::new());
    upload.write_to(&mut file, ImageFormat::Png).unwrap();
    let upload = whole.service.upload_image(file.into_inner()).await.text("id");

    // Picture 2 alone is picture 2 of three.
    let alone =
        whole.pictures(asked(json!({ "n": 1, "first_index": 2, "determinism": "fast" }))).await;
    assert!(alone[0] == first[2]);

    for (name, more) in [
        ("plain", json!({ "n": 2 })),
        ("merged", json!({ "concepts": [{ "concept": "gate", "strength": 0.7 }] })),
        (
            "from an image",
            json!({ "init_image": upload, "noise_strength": 0.7, "scheduler": "euler_a" }),
        ),
        (
            "half guided",
            json!({ "guidance_interval": [0.3, 0.7], "unconditional_strength": 0.25, "scheduler": "pndm" }),
        ),
    ] {
        let picture = whole.pictures(asked(more)).await.pop().unwrap();
        let manifest = vstar::image_file::manifest_of(&picture).unwrap();
        let again = whole.pictures(json!({ "from_manifest": manifest })).await;
        assert!(again[0] == picture, "{name}: {manifest:?}");
        let listed = whole.service.get("/v1/samples").await;
        let id = listed.body["data"][0]["images"][0]["id"].as_str().unwrap();
        let published = whole.service.get(&format!("/v1/images/{id}/manifest")).await;
        assert_eq!(published.body, serde_json::to_value(&manifest).unwrap(), "{name}");
        let (succeeded, said) = replay(&whole, &picture).await;
        assert!(succeeded, "{name}: {said}");
    }

    // Nor after a restart, in a batch of another size.
    whole.kill_worker().await;
    whole.start_worker(WorkerConfig { max_batch_size: Some(2), ..WorkerConfig::default() });
    let again = whole.pictures(asked(json!({ "n": 3 }))).await;
    assert!(again == first);

    // What is not the same again is said.
    let picture = &first[0];
    let manifest = vstar::image_file::manifest_of(picture).unwrap();
    let pixels = image::load_from_memory(picture).unwrap().to_rgb8();
    let mut altered = pixels.clone();
    altered.get_pixel_mut(3, 3).0[0] ^= 128;
    let other = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        vstar::image_file::encode(&pixels, &manifest).unwrap()
    };
    for (file, word) in [
        (vstar::image_file::encode(&altered, &manifest).unwrap(), "pixels: 1 of"),
        (other(&|manifest| manifest.seed += 1), "pixels: "),
        (other(&|manifest| manifest.engine_version = "0.0.9".into()), "engine_version: \"0.0.9\""),
        (other(&|manifest| manifest.deltas[0].sha256 = "00".into()), "unknown_delta"),
        (other(&|manifest| manifest.base_model = "00".into()), "base_model_mismatch"),
        (png(64, 64, 1), "vstar.manifest"),
    ] {
        let (succeeded, said) = replay(&whole, &file).await;
        assert!(!succeeded && said.contains(word), "{word}: {said}");
    }
    whole.end().await;
}

/// `vstar replay FILE --verify` against the service: whether it succeeded, and what it said.
async fn replay(whole: &Whole, file: &[u8]) -> (bool, String) {
    let mut path = tempfile::NamedTempFile::with_suffix(".png").unwrap();
    path.write_all(file).unwrap();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_vstar"))
        .args(["replay", "--verify", "--url", whole.service.address()])
        .arg(path.path())
        .output()
        .await
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// The previews that a running sample tells of.
fn told(sample: &Answer) -> Vec<Value> {
    sample.body["progress"]["previews"].as_array().cloned().unwrap_or_default()
}

/// Two pictures in a batch with room for one: while the first is drawn, the second has nothing to show.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_preview_that_is_told_of_is_there(db: PgPool) {
    let config = WorkerConfig { max_batch_size: Some(1), ..WorkerConfig::default() };
    let whole = Whole::start_with(db, config).await;
    let body =
        json!({ "prompt": "a dog", "n": 2, "num_inference_steps": 250, "preview_every": 25 });
    let started = whole.service.post("/v1/samples", body).await;
    let path = started.header("location").to_owned();

    let mut seen = 0;
    loop {
        let sample = whole.service.get(&path).await;
        if !["queued", "running"].contains(&sample.text("status").as_str()) {
            break assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
        }
        for preview in told(&sample) {
            let answer = whole.service.get(&format!("{path}/previews/{}", preview["index"])).await;
            // It ends with the sample, which may be between the two questions.
            let running = whole.service.get(&path).await.text("status") == "running";
            assert!(answer.status == 200 || !running, "{preview}: {answer:?}");
            seen += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(seen > 0, "no preview was told of");
    let events = whole.service.get(&format!("{path}/events")).await.bytes;
    let events = String::from_utf8(events).unwrap();
    let first = events.lines().find(|line| line.contains("/previews/")).unwrap();
    assert!(first.contains("/previews/0?step=") && !first.contains("/previews/1"), "{first}");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn previews_come_while_pictures_are_drawn(db: PgPool) {
    let whole = Whole::start(db).await;
    let body =
        json!({ "prompt": "a dog", "n": 2, "num_inference_steps": 500, "preview_every": 100 });
    let started = whole.service.post("/v1/samples", body).await;
    let path = started.header("location").to_owned();

    let ended = |job: &Answer| !["queued", "running"].contains(&job.text("status").as_str());
    let shown = |job: &Answer| !told(job).is_empty();
    let sample = whole.wait_for(&path, |job| shown(job) || ended(job)).await;

    for preview in told(&sample) {
        assert!(preview["step"].as_u64().unwrap().is_multiple_of(100), "{sample:?}");
        let answer = whole.service.get(&format!("{path}/previews/{}", preview["index"])).await;
        assert_eq!(answer.header("content-type"), "image/png", "{answer:?}");
        let picture = image::load_from_memory(&answer.bytes).unwrap();
        assert_eq!((picture.width(), picture.height()), (64, 64));
    }
    let sample = whole.wait_for(&path, ended).await;
    assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
    assert_eq!(whole.service.get(&format!("{path}/previews/1")).await.status, 404);
    let events = whole.service.get(&format!("{path}/events")).await.bytes;
    let events = String::from_utf8(events).unwrap();
    assert!(events.contains(&format!("\"{path}/previews/0?step=")), "{events}");
    whole.end().await;
}
