//! Photos as they come from people, phones and other programs: verdicts, captions, masks and archives.

use std::io::{Cursor, Write};
use std::path::Path;

use encoding_rs::SHIFT_JIS;
use image::imageops::fast_blur;
use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sqlx::PgPool;
use zip::write::SimpleFileOptions;

use crate::harness::{Answer, Service, png};

const PHOTOS: &str = "/v1/concepts/rex/images";

/// A photo of the demo.
fn photo(number: usize) -> Vec<u8> {
    let file = format!("demo/concepts/dog/{number}.jpg");
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn encoded(image: &RgbImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// White in the left half.
fn mask(width: u32, height: u32) -> Vec<u8> {
    let image = GrayImage::from_fn(width, height, |x, _| Luma([255 * u8::from(x < width / 2)]));
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

fn part(file: Vec<u8>, name: &str) -> Part {
    Part::bytes(file).file_name(name.to_owned())
}

async fn send(service: &Service, form: Form) -> Answer {
    service.send(service.request(Method::POST, PHOTOS).multipart(form)).await
}

async fn with_concept(db: PgPool) -> Service {
    let service = Service::start(db).await;
    service.concept("rex", Some("<rex>"), "dog").await;
    service
}

fn codes(findings: &Value) -> Vec<&str> {
    findings.as_array().unwrap().iter().map(|one| one["code"].as_str().unwrap()).collect()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn each_photo_has_a_verdict_and_all_of_them_one(db: PgPool) {
    let service = with_concept(db).await;
    let good = image::load_from_memory(&photo(1)).unwrap().to_rgb8();
    let noise = RgbImage::from_fn(256, 256, |x, y| {
        let value = (u64::from(x) << 32 | u64::from(y)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Rgb([(value >> 33) as u8, (value >> 41) as u8, (value >> 49) as u8])
    });
    let files = vec![
        ("good.jpg", photo(1)),
        ("black.png", encoded(&RgbImage::new(256, 256))),
        (
            "blurred.png",
            encoded(&fast_blur(&image::load_from_memory(&photo(2)).unwrap().to_rgb8(), 5.0)),
        ),
        ("noise.png", encoded(&noise)),
        (
            "tiny.png",
            encoded(&image::imageops::thumbnail(
                &image::load_from_memory(&photo(3)).unwrap().to_rgb8(),
                32,
                32,
            )),
        ),
        (
            "strip.png",
            encoded(&RgbImage::from_fn(1024, 32, |x, y| {
                Rgb([x as u8, (y * 8) as u8, (x * y) as u8])
            })),
        ),
        ("again.png", encoded(&image::imageops::thumbnail(&good, 200, 200))),
        ("mirrored.png", encoded(&image::imageops::flip_horizontal(&good))),
    ];

    let answer = service.upload(PHOTOS, files).await;

    assert_eq!((answer.status, &answer.body["verdict"]), (201, &json!("fail")), "{answer:?}");
    let found: Vec<(&str, Vec<&str>)> = answer.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["verdict"].as_str().unwrap(), codes(&one["findings"])))
        .collect();
    let wanted = [
        ("ok", vec![]),
        ("fail", vec!["image_flat"]),
        ("warn", vec!["image_blurred"]),
        ("warn", vec!["image_noise"]),
        ("warn", vec!["image_small"]),
        ("fail", vec!["image_narrow"]),
        ("warn", vec!["image_near_duplicate"]),
        ("warn", vec!["image_near_duplicate"]),
    ];
    assert_eq!(found, wanted);
    assert_eq!(answer.body["data"][1]["error"]["code"], "image_flat");

    let list = service.get(PHOTOS).await;
    let listed = list.body["data"].as_array().unwrap();
    assert_eq!(listed.len(), 6);
    assert!(listed.iter().all(|one| one["photo"]["verdict"].is_string()), "{list:?}");
    let check = service.post("/v1/concepts/rex/check", json!(null)).await;
    assert_eq!((check.status, &check.body["verdict"]), (200, &json!("warn")), "{check:?}");
    assert_eq!(check.body["image_count"], 6);
    assert_eq!(codes(&check.body["findings"]), Vec::<&str>::new());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_check_says_what_a_training_needs_and_measures_what_nobody_has(db: PgPool) {
    let service = with_concept(db).await;

    let empty = service.get("/v1/concepts/rex/check").await;
    assert_eq!((empty.status, codes(&empty.body["findings"])), (200, vec!["dataset_too_small"]));
    assert_eq!(empty.body["verdict"], "fail");

    service.upload(PHOTOS, (1..=4).map(|n| ("p.jpg", photo(n))).collect()).await;
    sqlx::query("delete from photo").execute(&service.db).await.unwrap(); // as an earlier version leaves them
    let list = service.get(PHOTOS).await;
    assert_eq!(list.body["data"][0]["photo"]["verdict"], Value::Null);
    let check = service.post("/v1/concepts/rex/check", json!(null)).await;
    assert_eq!((check.body["verdict"].as_str(), check.status), (Some("ok"), 200), "{check:?}");
    let list = service.get(PHOTOS).await;
    assert_eq!(list.body["data"][0]["photo"]["verdict"], "ok");
    assert_eq!(service.get("/v1/concepts/max/check").await.problem().0, 404);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn captions_come_in_order_by_name_or_beside_their_photos(db: PgPool) {
    let service = with_concept(db).await;

    let ordered = Form::new()
        .text("captions[]", "a dog asleep")
        .part("files[]", part(photo(1), "1.jpg"))
        .part("files[]", part(photo(2), "2.jpg"))
        .text("captions[]", "");
    let named = Form::new()
        .part("files", part(photo(3), "3.jpg"))
        .text("captions", r#"{"3.jpg": "{} on the grass, seen from above"}"#);
    let beside = Form::new()
        .part("files", part(b"in the snow\r\n".to_vec(), "4.txt"))
        .part("files", part(photo(4), "4.jpg"))
        .part("captions", part(b"\xef\xbb\xbfwith a ball".to_vec(), "5.caption"))
        .part("files", part(photo(5), "5.jpg"));
    let mut seen = Vec::new();
    for form in [ordered, named, beside] {
        let answer = send(&service, form).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        for one in answer.body["data"].as_array().unwrap() {
            let photo = &one["image"]["photo"];
            seen.push((photo["caption"].clone(), photo["training_caption"].clone()));
        }
    }

    assert_eq!(
        seen,
        [
            (json!("a dog asleep"), json!("a <rex> dog asleep")),
            (Value::Null, Value::Null),
            (
                json!("{} on the grass, seen from above"),
                json!("<rex> dog on the grass, seen from above")
            ),
            (json!("in the snow"), json!("<rex> dog, in the snow")),
            (json!("with a ball"), json!("<rex> dog, with a ball")),
        ]
    );
    let training = service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await;
    assert_eq!(training.status, 202, "{training:?}");
    let task: Value =
        sqlx::query_scalar("select task from job").fetch_one(&service.db).await.unwrap();
    let images = task["concepts"][0]["images"].as_array().unwrap();
    let captions: Vec<Option<&str>> = images.iter().map(|one| one["caption"].as_str()).collect();
    assert_eq!(
        captions[..3],
        [Some("a <rex> dog asleep"), None, Some("<rex> dog on the grass, seen from above")]
    );
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_caption_is_decoded_or_refused_by_name(db: PgPool) {
    let service = with_concept(db).await;
    let before = service.contents().await;
    let beside = |caption: &[u8], name: &str| {
        let form = Form::new().part("files", part(photo(1), "a.jpg"));
        form.part("files", part(caption.to_vec(), name))
    };
    let utf16: Vec<u8> = std::iter::once(0xfeff)
        .chain("the dog’s ball".encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();

    for (caption, what) in [
        (b"a dog\0".to_vec(), "control character"),
        (b"\x88\xa2\x88\xa3 dog".to_vec(), "UTF-8"),
        (vec![b'a'; 3_000], "2000 bytes"),
        (vec![b'a'; 2 << 20], "2000 bytes"),
        ("dog ".repeat(200).into_bytes(), "shorten the text"),
    ] {
        let refused = send(&service, beside(&caption, "a.txt")).await;

        assert_eq!(refused.problem().0, 422, "{refused:?}");
        let detail = refused.text("detail");
        assert!(detail.contains("a.txt") || detail.contains("a.jpg"), "{detail}");
        assert!(detail.contains(what), "{detail}");
        assert_eq!(service.contents().await, before);
    }
    let nobodys = send(&service, beside(b"a dog", "b.txt")).await;
    assert_eq!((nobodys.problem().0, nobodys.problem().1), (422, "unmatched_file"));
    let too_few = Form::new()
        .part("files", part(photo(1), "a.jpg"))
        .text("captions", "a")
        .text("captions", "b");
    assert_eq!(send(&service, too_few).await.problem().1, "unmatched_file");
    assert_eq!(service.contents().await, before);

    for (index, (caption, shown)) in [
        (b"the dog\x92s red ball on grass".to_vec(), json!("the dog’s red ball on grass")),
        (b"\xef\xbb\xbfa dog\r\non grass\r\n".to_vec(), json!("a dog on grass")),
        (utf16, json!("the dog’s ball")),
        (Vec::new(), Value::Null),
    ]
    .into_iter()
    .enumerate()
    {
        let name = ["a.txt", "a.caption"][index % 2];
        let form = Form::new().part("files", part(photo(index + 1), "a.jpg"));
        let answer = send(&service, form.part("files", part(caption, name))).await;

        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.body["data"][0]["image"]["photo"]["caption"], shown);
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_caption_can_be_changed_and_removed(db: PgPool) {
    let service = with_concept(db).await;
    let added = service.upload(PHOTOS, vec![("1.jpg", photo(1))]).await;
    let path = format!("{PHOTOS}/{}", added.body["data"][0]["image"]["id"].as_str().unwrap());
    let patch =
        async |body: Value| service.send(service.request(Method::PATCH, &path).json(&body)).await;

    let given = patch(json!({ "caption": "a dog\nat home" })).await;
    let same = patch(json!({})).await;
    let too_long = patch(json!({ "caption": "dog ".repeat(100) })).await;
    let unknown = patch(json!({ "captions": "a" })).await;
    let removed = patch(json!({ "caption": null })).await;

    assert_eq!(
        (given.status, &given.body["photo"]["caption"]),
        (200, &json!("a dog at home")),
        "{given:?}"
    );
    assert_eq!(same.body["photo"], given.body["photo"]);
    assert_eq!(too_long.problem(), (422, "prompt_too_long", vec!["/caption"]));
    assert_eq!(unknown.problem().1, "unknown_field");
    assert_eq!(removed.body["photo"]["caption"], Value::Null);
    service.concept("max", None, "cat").await;
    let elsewhere = path.replace("rex", "max");
    let elsewhere = service.request(Method::PATCH, &elsewhere).json(&json!({ "caption": "a" }));
    assert_eq!(service.send(elsewhere).await.problem().0, 404);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_mask_belongs_to_its_photo_and_goes_into_the_training(db: PgPool) {
    let service = with_concept(db).await;
    let before = service.contents().await;
    for (file, name, code) in [
        (mask(64, 256), "1.png", "mask_unusable"),
        (encoded(&RgbImage::new(256, 256)), "1.png", "mask_unusable"),
        (mask(256, 256), "9.png", "unmatched_file"),
        (
            b"no image at all, whatever its name says, and long enough to be looked at".to_vec(),
            "1.png",
            "image_unreadable",
        ),
    ] {
        let form =
            Form::new().part("files", part(photo(1), "1.jpg")).part("masks[]", part(file, name));
        let refused = send(&service, form).await;
        assert_eq!(refused.problem(), (422, code, vec!["/masks/0"]), "{refused:?}");
        assert_eq!(service.contents().await, before);
    }

    let form = (1..=4)
        .fold(Form::new(), |form, n| form.part("files", part(photo(n), &format!("{n}.jpg"))));
    let added = send(&service, form.part("masks[]", part(mask(128, 128), "1.png"))).await;

    assert_eq!(added.status, 201, "{added:?}");
    let image = &added.body["data"][0]["image"];
    let url = image["photo"]["mask"]["url"].as_str().unwrap().to_owned();
    let file = service.get(&url).await;
    assert_eq!(file.header("content-type"), "image/png");
    let gray = image::load_from_memory(&file.bytes).unwrap();
    assert_eq!((gray.width(), gray.color()), (128, image::ColorType::L8));
    service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await;
    let task: Value =
        sqlx::query_scalar("select task from job").fetch_one(&service.db).await.unwrap();
    let images = &task["concepts"][0]["images"];
    assert_eq!(images[0]["mask"]["sha256"], image["photo"]["mask"]["sha256"]);
    assert_eq!(images[1].get("mask"), None);

    let path = format!("{PHOTOS}/{}/mask", image["id"].as_str().unwrap());
    let form = Form::new().part("file", part(mask(256, 256), "m.png"));
    let changed = service.send(service.request(Method::PUT, &path).multipart(form)).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_ne!(changed.body["photo"]["mask"]["sha256"], image["photo"]["mask"]["sha256"]);
    let removed = service.send(service.request(Method::DELETE, &path)).await;
    assert_eq!((removed.status, &removed.body["photo"]["mask"]), (200, &Value::Null));
    assert_eq!(service.get(&path).await.problem().0, 404);
}

fn archive(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    // Written under names of the same length, which are then replaced: the writer takes UTF-8 only.
    let mut names = Vec::new();
    for (index, (name, content)) in entries.iter().enumerate() {
        let letter = char::from(b'A' + index as u8);
        let stand_in = format!("{letter:#<width$}", width = name.len());
        archive.start_file(stand_in.as_str(), SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
        names.push((stand_in.into_bytes(), name.to_vec()));
    }
    let mut bytes = archive.finish().unwrap().into_inner();
    for (stand_in, name) in names {
        let mut at = 0;
        while at + name.len() <= bytes.len() {
            if bytes[at..].starts_with(&stand_in) {
                bytes[at..at + name.len()].copy_from_slice(&name);
            }
            at += 1;
        }
    }
    bytes
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_zip_from_a_phone_and_a_mac_gives_its_photos(db: PgPool) {
    let service = with_concept(db).await;
    let (japanese, _, _) = SHIFT_JIS.encode("写真/いぬ.jpg");
    let broken =
        b"broken, and long enough to be looked at by its first bytes, which say nothing".to_vec();
    let photos: Vec<Vec<u8>> = (1..=6).map(photo).collect();
    let file = archive(&[
        (b"IMG_1.JPG", &photos[0]),
        (b"IMG_2.JPEG", &photos[1]),
        (b"one/a.jpg", &photos[2]),
        (b"two/a.jpg", &photos[3]),
        (b"A.jpg", &photos[4]),
        (&japanese, &photos[5]),
        (b"noname", &png(64, 64, 9)),
        (b"__MACOSX/._IMG_1.JPG", b"mac"),
        (b".DS_Store", b"mac"),
        (b"Thumbs.db", b"windows"),
        (b"desktop.ini", b"windows"),
        (b"two/a.txt", b"a dog in the second folder"),
        (b"broken.jpg", &broken),
    ]);

    let answer = service.upload(PHOTOS, vec![("photos.zip", file)]).await;

    assert_eq!(answer.status, 201, "{answer:?}");
    let names: Vec<(&str, &str)> = answer.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["file_name"].as_str().unwrap(), one["status"].as_str().unwrap()))
        .collect();
    let accepted =
        ["A.jpg", "IMG_1.JPG", "IMG_2.JPEG", "noname", "one/a.jpg", "two/a.jpg", "写真/いぬ.jpg"];
    for name in accepted {
        assert!(names.contains(&(name, "accepted")), "{name} of {names:?}");
    }
    assert!(names.contains(&("broken.jpg", "rejected")) && names.len() == 8, "{names:?}");
    let ignored = answer.body["ignored"].as_array().unwrap();
    assert_eq!(ignored.len(), 4, "{ignored:?}");
    let data = answer.body["data"].as_array().unwrap();
    let captioned = data.iter().find(|one| one["file_name"] == "two/a.jpg").unwrap();
    assert_eq!(captioned["image"]["photo"]["caption"], "a dog in the second folder");
    let others = data.iter().filter(|one| one["image"]["photo"]["caption"].is_string());
    assert_eq!(others.count(), 1);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_archive_that_is_refused_leaves_nothing(db: PgPool) {
    let service = with_concept(db).await;
    let before = service.contents().await;

    for (file, code) in [
        (archive(&[(b"../a.jpg", &photo(1))]), "image_set_unreadable"),
        (archive(&[(b"a.jpg", &photo(1)), (b"a.txt", b"a\0b")]), "caption_unreadable"),
        (
            archive(&[(b"b.jpg", &photo(1)), (b"b.txt", "dog ".repeat(100).as_bytes())]),
            "prompt_too_long",
        ),
        (archive(&[(b"notes.txt", b"nothing")]), "missing_field"),
        (
            b"PK\x03\x04 and nothing else that belongs to an archive, but long enough to be one"
                .to_vec(),
            "image_set_unreadable",
        ),
    ] {
        let refused = service.upload(PHOTOS, vec![("a.zip", file)]).await;

        assert_eq!((refused.problem().0, refused.problem().1), (422, code), "{refused:?}");
        assert_eq!(service.contents().await, before);
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_phones_and_careless_clients_send_gets_an_error_that_helps(db: PgPool) {
    let service = with_concept(db).await;

    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".repeat(10);
    let heic = service.upload(PHOTOS, vec![("IMG_1.HEIC", heic)]).await;
    let text = send(&service, Form::new().text("files", "[object File]")).await;
    let base64 =
        send(&service, Form::new().text("files", "data:image/png;base64,iVBORw0KGgo".repeat(10)))
            .await;
    let image = Form::new().text("file", "undefined");
    let image = service.send(service.request(Method::POST, "/v1/images").multipart(image)).await;

    assert_eq!(heic.problem(), (422, "unsupported_image", vec!["/files/0"]));
    assert!(heic.text("detail").contains("Most Compatible"), "{heic:?}");
    for refused in [text, base64] {
        assert_eq!(refused.problem(), (422, "invalid_value", vec!["/files"]), "{refused:?}");
        assert!(refused.text("detail").contains("file name"), "{refused:?}");
    }
    assert_eq!(image.problem(), (422, "invalid_value", vec!["/file"]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn file_names_are_shown_as_people_read_them(db: PgPool) {
    let service = with_concept(db).await;

    for (number, (raw, shown)) in [
        ("../../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\dog.jpg", "dog.jpg"),
        ("dog\u{202e}gpj.exe", "doggpj.exe"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = service.upload(PHOTOS, vec![(raw, photo(number + 1))]).await;

        assert_eq!(answer.body["data"][0]["file_name"], shown, "{answer:?}");
        assert_eq!(answer.body["data"][0]["image"]["file_name"], shown);
        assert!(!String::from_utf8_lossy(&answer.bytes).contains(raw));
    }
}
