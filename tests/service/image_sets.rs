//! Image sets over HTTP: uploaded, listed, searched, deleted, and named by trainings.

use std::io::{Cursor, Write};

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::model_folder::ModelFolder;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::harness::{Answer, Service, png, tiny};

/// A zip archive of these files.
pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// An archive of small images with these captions.
pub(crate) fn captioned(captions: &[&str]) -> Vec<u8> {
    let names: Vec<String> = (0..captions.len()).map(|index| format!("{index:03}.png")).collect();
    let images: Vec<Vec<u8>> = (0..captions.len()).map(|index| png(64, 64, index as u8)).collect();
    let lines = names
        .iter()
        .zip(captions)
        .map(|(name, caption)| json!({ "file_name": name, "text": caption }).to_string() + "\n");
    let metadata: String = lines.collect();
    let mut files: Vec<(&str, &[u8])> =
        names.iter().zip(&images).map(|(name, image)| (name.as_str(), image.as_slice())).collect();
    files.push(("metadata.jsonl", metadata.as_bytes()));
    zip(&files)
}

pub(crate) async fn upload(service: &Service, archive: Vec<u8>) -> Answer {
    let form = Form::new()
        .text("name", "scenes")
        .part("file", Part::bytes(archive).file_name("scenes.zip"));
    service.send(service.request(Method::POST, "/v1/image-sets").multipart(form)).await
}

/// Uploads a set and returns it.
pub(crate) async fn uploaded(service: &Service, captions: &[&str]) -> Answer {
    let set = upload(service, captioned(captions)).await;
    assert_eq!(set.status, 201, "{set:?}");
    set
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_set_is_uploaded_listed_and_deleted(db: PgPool) {
    let service = Service::start(db).await;
    let (a, b) = (png(64, 48, 1), png(64, 48, 2));
    let set = upload(
        &service,
        zip(&[
            ("cat/1.png", &a),
            ("cat/1.txt", b"a cat\r\n"),
            ("dog/1.png", &b),
            ("__MACOSX/cat/._1.png", b"x"),
            ("dog/cut.png", &b[..60]),
        ]),
    )
    .await;

    assert_eq!(set.status, 201, "{set:?}");
    assert_eq!(set.header("location"), format!("/v1/image-sets/{}", set.text("id")));
    assert_eq!(set.text("name"), "scenes");
    assert_eq!(set.text("source"), "uploaded");
    assert_eq!((&set.body["image_count"], &set.body["caption_count"]), (&json!(2), &json!(1)));
    let verdicts = &set.body["verdicts"];
    assert_eq!((&verdicts["ignored"], &verdicts["broken"]), (&json!(1), &json!(1)));
    let broken = verdicts["files"].as_array().unwrap();
    assert!(broken.iter().any(|one| one["path"] == "dog/cut.png" && one["status"] == "broken"));

    for name in [set.text("id"), set.text("digest")] {
        let one = service.get(&format!("/v1/image-sets/{name}")).await;
        assert_eq!(one.body, set.body);
    }
    let list = service.get("/v1/image-sets").await;
    assert_eq!(list.body["data"][0]["id"], set.body["id"]);
    assert_eq!(list.body["data"][0]["verdicts"]["files"], json!([]));

    // The images come a page at a time, each with its own caption and file.
    let path = set.text("images_url");
    let first = service.get(&format!("{path}?limit=1")).await;
    assert_eq!(first.body["data"][0]["path"], "cat/1.png");
    assert_eq!(first.body["data"][0]["caption"], "a cat");
    let second = service.get(&format!("{path}?limit=1&after={}", first.text("next_cursor"))).await;
    let image = &second.body["data"][0];
    assert_eq!((&image["path"], &image["caption"]), (&json!("dog/1.png"), &Value::Null));
    assert_eq!(second.body["has_more"], false);
    let file = service.get(image["url"].as_str().unwrap()).await;
    assert_eq!((file.header("content-type"), &file.bytes), ("image/png", &b));
    assert_eq!(service.get(&format!("{path}/2/content")).await.problem().0, 404);

    let id = format!("/v1/image-sets/{}", set.text("id"));
    let delete = |tag: &str| service.request(Method::DELETE, &id).header("if-match", tag);
    assert_eq!(service.send(delete("\"999\"")).await.problem().0, 412);
    let deleted = service.send(delete(service.get(&id).await.header("etag"))).await;
    assert_eq!((deleted.status, &deleted.body["removed"]["image_sets"]), (200, &json!(1)));
    assert_eq!(deleted.body["size_bytes"], set.body["size_bytes"]);
    assert_eq!(service.get(&id).await.problem().0, 404);
    assert_eq!(service.send(service.request(Method::DELETE, &id)).await.problem().0, 404);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_refused_archive_leaves_nothing(db: PgPool) {
    let service = Service::start(db).await;
    let a = png(64, 64, 1);
    let before = service.contents().await;

    for (archive, code) in [
        (b"hello".to_vec(), "image_set_unreadable"),
        (Vec::new(), "image_set_unreadable"),
        (zip(&[("a.txt", b"a")]), "image_set_unreadable"),
        (zip(&[("../a.png", &a)]), "image_set_unreadable"),
        (zip(&[("a.png", &a), ("a.txt", b"\xff\xfea\0\0")]), "caption_unreadable"),
        (
            zip(&[
                ("a.png", &a),
                ("metadata.jsonl", b"{\"file_name\": \"b.png\", \"text\": \"b\"}"),
            ]),
            "caption_unreadable",
        ),
    ] {
        let refused = upload(&service, archive).await;
        assert_eq!(refused.problem(), (422, code, vec!["/file"]), "{refused:?}");
    }
    let forms: [(Form, &str, &str); 4] = [
        (Form::new().text("name", "x"), "missing_field", "/file"),
        (Form::new().part("files", Part::bytes(captioned(&["a"]))), "unknown_field", "/files"),
        (
            Form::new().text("name", "x".repeat(201)).part("file", Part::bytes(captioned(&["a"]))),
            "invalid_value",
            "/name",
        ),
        (
            Form::new()
                .part("file", Part::bytes(captioned(&["a"])))
                .part("file", Part::bytes(captioned(&["a"]))),
            "invalid_value",
            "/file",
        ),
    ];
    for (form, code, pointer) in forms {
        let request = service.request(Method::POST, "/v1/image-sets").multipart(form);
        let refused = service.send(request).await;
        assert_eq!(refused.problem(), (422, code, vec![pointer]), "{refused:?}");
    }

    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_base_models_class_images_are_a_set_that_stays(db: PgPool) {
    let folder = ModelFolder::open(&tiny()).unwrap();
    let service = Service::with_model(db, &folder).await;
    let reference = folder.info.class_image_set.clone().unwrap();

    let list = service.get("/v1/image-sets").await;
    let set = &list.body["data"][0];

    assert_eq!((&set["source"], &set["digest"]), (&json!("base_model"), &json!(reference.digest)));
    assert_eq!(set["image_count"], reference.count);
    let image = service.get(&format!("{}?limit=1", set["images_url"].as_str().unwrap())).await;
    let file = service.get(image.body["data"][0]["url"].as_str().unwrap()).await;
    assert!(image::load_from_memory(&file.bytes).is_ok());
    let path = format!("/v1/image-sets/{}", set["id"].as_str().unwrap());
    let refused = service.send(service.request(Method::DELETE, &path)).await;
    assert_eq!((refused.problem().0, refused.problem().1), (409, "image_set_in_use"));
    // Another process that starts lists nothing twice.
    service.list_class_images(&folder).await;
    assert_eq!(service.get("/v1/image-sets").await.body["data"].as_array().unwrap().len(), 1);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_dry_run_finds_captions_whatever_their_form(db: PgPool) {
    let service = Service::with_evaluator(db).await;
    let long = "dog ".repeat(300);
    let archive = zip(&[
        ("1.png", &png(64, 64, 1)),
        ("1.txt", b"\xef\xbb\xbfphoto of a dog\r\n"),
        ("2.png", &png(64, 64, 2)),
        ("2.txt", b"photo of\n a dog"),
        ("3.png", &png(64, 64, 3)),
        ("3.txt", long.as_bytes()),
        ("4.png", &png(64, 64, 4)),
        ("5.png", &png(64, 64, 5)),
        ("5.txt", b"a boat in the sea"),
    ]);
    let set = upload(&service, archive).await;
    let path = format!("/v1/image-sets/{}/retrieve", set.text("digest"));

    let found = service.post(&path, json!({ "prompt": "photo of a dog", "threshold": 1.0 })).await;

    assert_eq!(found.status, 200, "{found:?}");
    let paths = |found: &Answer| -> Vec<String> {
        let images = found.body["images"].as_array().unwrap().iter();
        images.map(|image| image["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(&found), ["1.png", "2.png"]);
    for image in found.body["images"].as_array().unwrap() {
        assert_eq!(
            (&image["similarity"], &image["caption"]),
            (&json!(1.0), &json!("photo of a dog"))
        );
    }
    assert_eq!(found.body["truncated_captions"], 1);
    assert_eq!(found.body["above_threshold"], 2);

    // Everything with a caption, best first, as many as asked for; the long caption spoils nothing.
    let all = service.post(&path, json!({ "prompt": "photo of a dog", "threshold": -1 })).await;
    assert_eq!(all.body["images"].as_array().unwrap().len(), 4);
    let similarities: Vec<f64> = all.body["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["similarity"].as_f64().unwrap())
        .collect();
    assert!(similarities.is_sorted_by(|a, b| a >= b), "{similarities:?}");
    let body = json!({ "prompt": "photo of a dog", "threshold": -1, "max_images": 1 });
    let one = service.post(&path, body).await;
    assert_eq!((paths(&one), &one.body["above_threshold"]), (vec!["1.png".to_owned()], &json!(4)));
    // The default is the evaluator's own.
    let own = service.post(&path, json!({ "prompt": "photo of a dog" })).await;
    assert_eq!(own.body["threshold"], own.body["calibrated_threshold"]);
    assert!(own.body["threshold"].as_f64().unwrap() <= 0.85);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_dry_run_refuses_what_it_cannot_compare(db: PgPool) {
    let service = Service::with_evaluator(db.clone()).await;
    let set = uploaded(&service, &["a dog"]).await.text("id");
    let bare = upload(&service, zip(&[("a.png", &png(64, 64, 9))])).await.text("id");
    let path = |set: &str| format!("/v1/image-sets/{set}/retrieve");

    for (body, code, pointer) in [
        (json!({ "prompt": "dog ".repeat(100) }), "prompt_too_long", "/prompt"),
        (json!({ "prompt": " " }), "invalid_value", "/prompt"),
        (json!({ "prompt": "photo of a {}" }), "invalid_value", "/prompt"),
        (json!({ "prompt": "photo of a <rex> dog" }), "invalid_value", "/prompt"),
        (json!({}), "missing_field", "/prompt"),
        (json!({ "prompt": "a", "threshold": 1.5 }), "out_of_range", "/threshold"),
        (json!({ "prompt": "a", "max_images": 0 }), "out_of_range", "/max_images"),
        (json!({ "prompt": "a", "top": 3 }), "unknown_field", "/top"),
    ] {
        let refused = service.post(&path(&set), body).await;
        assert_eq!(refused.problem(), (422, code, vec![pointer]), "{refused:?}");
    }
    let refused = service.post(&path(&bare), json!({ "prompt": "a" })).await;
    assert_eq!(refused.problem().1, "not_applicable");
    for name in ["nothing", "%00"] {
        assert_eq!(service.post(&path(name), json!({ "prompt": "a" })).await.problem().0, 404);
    }

    let without = Service::start(db).await;
    let set = uploaded(&without, &["a dog"]).await.text("id");
    let refused = without.post(&path(&set), json!({ "prompt": "a" })).await;
    assert_eq!((refused.problem().0, refused.problem().1), (422, "evaluator_missing"));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_index_is_kept_with_its_set(db: PgPool) {
    let service = Service::with_evaluator(db.clone()).await;
    let set = uploaded(&service, &["a dog", "a cat"]).await;
    let path = format!("/v1/image-sets/{}/retrieve", set.text("id"));
    let body = json!({ "prompt": "a dog", "threshold": -1 });
    let first = service.post(&path, body.clone()).await;
    assert_eq!(first.status, 200, "{first:?}");
    let objects = service.contents().await;

    // Another process reads it: there are no captions in the catalog that it could be made from.
    sqlx::query("update image_set_image set caption = 'x'").execute(&db).await.unwrap();
    let other = Service::beside(&service).await;
    let again = other.post(&path, body).await;

    let similarities = |answer: &Answer| -> Vec<Value> {
        let images = answer.body["images"].as_array().unwrap().iter();
        images.map(|image| image["similarity"].clone()).collect()
    };
    assert_eq!(similarities(&again), similarities(&first));
    assert_eq!(service.contents().await, objects);
}
