//! Photos: what is taken, what is not, and what is kept.

use image::ImageFormat;
use reqwest::multipart::{Form, Part};
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{Service, encoded, png};

/// A PNG that says in its header that it has 30,000 × 30,000 pixels.
fn huge_png() -> Vec<u8> {
    let mut file = png(64, 64, 0);
    file[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
    file[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
    let checksum = !file[12..29].iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 * (crc & 1)))
    });
    file[29..33].copy_from_slice(&checksum.to_be_bytes());
    file
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn photos_of_every_format_are_kept_as_png(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("rex", Some("<rex>"), "dog").await;

    let files = vec![
        ("a.png", encoded(64, 48, 1, ImageFormat::Png)),
        ("b.jpg", encoded(64, 48, 2, ImageFormat::Jpeg)),
        ("c.webp", encoded(64, 48, 3, ImageFormat::WebP)),
    ];
    let answer = service.upload("/v1/concepts/rex/images", files).await;

    assert_eq!((answer.status, answer.body["accepted"].as_i64()), (201, Some(3)), "{answer:?}");
    let list = service.get("/v1/concepts/rex/images").await;
    assert_eq!(list.body["data"].as_array().unwrap().len(), 3);
    for verdict in answer.body["data"].as_array().unwrap() {
        assert_eq!(verdict["status"], "accepted");
        let content = service.get(verdict["image"]["url"].as_str().unwrap()).await;
        assert_eq!(content.header("content-type"), "image/png");
        let image = image::load_from_memory_with_format(&content.bytes, ImageFormat::Png).unwrap();
        assert_eq!((image.width(), image.height()), (64, 48));
    }
    assert_eq!(service.get("/v1/concepts/rex").await.body["image_count"], 3);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_file_that_is_no_photo_changes_nothing(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("rex", None, "dog").await;
    let whole = encoded(64, 64, 1, ImageFormat::Jpeg);
    let before = service.contents().await;

    for (name, file, code) in [
        ("text.jpg", b"this is not an image".to_vec(), "image_unreadable"),
        ("empty.png", Vec::new(), "image_unreadable"),
        ("cut.jpg", whole[..whole.len() / 2].to_vec(), "image_unreadable"),
        ("cut.png", png(64, 64, 1)[..60].to_vec(), "image_unreadable"),
        ("huge.png", huge_png(), "image_too_large"),
        ("tiny.png", png(8, 8, 1), "image_too_small"),
        ("fat.png", [png(64, 64, 1), vec![0; 21 << 20]].concat(), "image_too_large"),
        ("zeros.png", vec![0; 21 << 20], "image_unreadable"),
    ] {
        let answer = service.upload("/v1/concepts/rex/images", vec![(name, file)]).await;
        assert_eq!(answer.problem(), (422, code, vec!["/files/0"]), "{name}");
    }
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn each_file_has_its_own_verdict(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("rex", None, "dog").await;

    let files =
        vec![("a.png", png(64, 64, 1)), ("b.png", b"no".to_vec()), ("again.png", png(64, 64, 1))];
    let answer = service.upload("/v1/concepts/rex/images", files).await;

    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(
        (answer.body["accepted"].as_i64(), answer.body["rejected"].as_i64()),
        (Some(1), Some(2))
    );
    let verdicts = answer.body["data"].as_array().unwrap();
    let codes: Vec<_> = verdicts.iter().map(|verdict| verdict["error"]["code"].as_str()).collect();
    assert_eq!(codes, [None, Some("image_unreadable"), Some("duplicate_image")]);
    assert_eq!(verdicts[1]["file_name"], "b.png");
    assert_eq!(service.get("/v1/concepts/rex").await.body["image_count"], 1);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_form_that_is_no_upload_is_refused(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("rex", None, "dog").await;
    let before = service.contents().await;

    let json = service.post("/v1/concepts/rex/images", json!({ "files": [] })).await;
    let empty = service.upload("/v1/concepts/rex/images", vec![]).await;
    let form = reqwest::multipart::Form::new().text("color", "red");
    let request = service.request(reqwest::Method::POST, "/v1/concepts/rex/images").multipart(form);
    let other = service.send(request).await;
    let nobody = service.upload("/v1/concepts/max/images", vec![("a.png", png(64, 64, 1))]).await;

    assert_eq!(json.problem().0, 415);
    assert!(matches!(empty.problem().0, 400 | 422), "{empty:?}");
    assert_eq!(other.problem(), (422, "unknown_field", vec!["/color"]));
    assert_eq!(nobody.problem().0, 404);
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn content_is_sent_once_and_in_ranges(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 1).await;
    let image = service.get("/v1/concepts/rex/images").await.body["data"][0].clone();
    let url = image["url"].as_str().unwrap();

    let whole = service.get(url).await;
    let tag = whole.header("etag");
    let again =
        service.send(service.request(reqwest::Method::GET, url).header("if-none-match", tag)).await;
    let range =
        service.send(service.request(reqwest::Method::GET, url).header("range", "bytes=1-3")).await;
    let beyond = service
        .send(service.request(reqwest::Method::GET, url).header("range", "bytes=9999999-"))
        .await;

    assert_eq!(tag, format!("\"{}\"", image["sha256"].as_str().unwrap()));
    assert_eq!((again.status, again.bytes.len()), (304, 0));
    assert_eq!((range.status, range.bytes.as_slice()), (206, &b"PNG"[..]));
    assert_eq!(range.header("content-range"), format!("bytes 1-3/{}", whole.bytes.len()));
    assert_eq!(beyond.problem().0, 416);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_form_that_is_refused_keeps_none_of_its_photos(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("rex", None, "dog").await;
    let before = service.contents().await;
    let photos = |count: u8| {
        (0..count).fold(Form::new(), |form, index| {
            form.part("files", Part::bytes(png(32, 32, index)).file_name(format!("{index}.png")))
        })
    };

    for (form, code) in
        [(photos(2).text("color", "red"), "unknown_field"), (photos(101), "too_many_images")]
    {
        let path = "/v1/concepts/rex/images";
        let refused =
            service.send(service.request(reqwest::Method::POST, path).multipart(form)).await;

        assert_eq!((refused.problem().0, refused.problem().1), (422, code));
        assert_eq!(service.contents().await, before);
    }
    let again = service.upload("/v1/concepts/rex/images", vec![("0.png", png(32, 32, 0))]).await;
    assert_eq!((again.status, again.body["accepted"].as_i64()), (201, Some(1)), "{again:?}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn photos_beyond_the_hundredth_are_rejected_one_by_one(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("rex", None, "dog").await;
    let files = |from: u8, to: u8| (from..to).map(|index| ("p.png", png(32, 32, index))).collect();

    service.upload("/v1/concepts/rex/images", files(0, 98)).await;
    let rest = service.upload("/v1/concepts/rex/images", files(97, 102)).await;

    let verdicts = rest.body["data"].as_array().unwrap().iter();
    let codes: Vec<_> = verdicts.map(|verdict| verdict["error"]["code"].as_str()).collect();
    let (twice, many) = (Some("duplicate_image"), Some("too_many_images"));
    assert_eq!(codes, [twice, None, None, many, many]);
    assert_eq!(service.get("/v1/concepts/rex").await.body["image_count"], 100);
}
