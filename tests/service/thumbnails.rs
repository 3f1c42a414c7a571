//! Thumbnails of photos and generated images.

use reqwest::Method;
use sqlx::PgPool;
use vstar::app::access::Rates;
use vstar::http::Doors;

use crate::harness::{Answer, Service, png};

fn dimensions(answer: &Answer) -> (u32, u32) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), "image/webp");
    let image = image::load_from_memory_with_format(&answer.bytes, image::ImageFormat::WebP);
    let image = image.unwrap();
    (image.width(), image.height())
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_thumbnail_has_the_width_that_is_asked_for_and_the_image_s_shape(db: PgPool) {
    let service = Service::start(db).await;
    let upload = service.upload_image(png(900, 601, 40)).await;
    let concept = service.concept_with_photos("rex", 1).await;
    let photos = service.get(&format!("/v1/concepts/{concept}/images")).await;
    let photo = photos.body["data"][0]["url"].as_str().unwrap();
    let side = photos.body["data"][0]["width"].as_u64().unwrap() as u32;

    for (width, height) in [(64, 43), (128, 86), (256, 171), (512, 342)] {
        let small = service.get(&format!("{}?w={width}", upload.text("url"))).await;
        assert_eq!(dimensions(&small), (width, height));
    }
    let wide = service.get(&format!("{}?w=1024", upload.text("url"))).await;
    let of_photo = service.get(&format!("{photo}?w=64")).await;

    assert_eq!(dimensions(&wide), (900, 601), "nothing is enlarged");
    assert_eq!(dimensions(&of_photo).0, side.min(64));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_thumbnail_is_made_once_and_kept_by_browsers_for_ever(db: PgPool) {
    let service = Service::start(db).await;
    let path = format!("{}?w=128", service.upload_image(png(700, 700, 90)).await.text("url"));

    let first = service.get(&path).await;
    let read = service.store.read_bytes();
    let again = service.get(&path).await;
    let tag = first.header("etag");
    let known = service.request(Method::GET, &path).header("if-none-match", tag);
    let known = service.send(known).await;

    assert_eq!(first.bytes, again.bytes);
    assert_eq!(service.store.read_bytes(), read, "the second is answered from memory");
    assert_eq!(first.header("cache-control"), "private, max-age=31536000, immutable");
    assert_eq!(known.status, 304);
    assert_ne!(tag, service.get(&path.replace("?w=128", "")).await.header("etag"));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn widths_that_are_not_offered_are_refused(db: PgPool) {
    let service = Service::start(db).await;
    let url = service.upload_image(png(64, 64, 90)).await.text("url");

    for width in ["0", "100", "-64", "4294967360", "x", ""] {
        let answer = service.get(&format!("{url}?w={width}")).await;
        assert_eq!(answer.problem(), (422, "invalid_value", vec!["w"]), "{width}");
    }
    let known = service.get(&format!("{url}?w=100")).await;
    let detail = known.body["errors"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("64, 128, 256, 512 or 1024"), "{detail}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_thumbnail_needs_the_same_key_as_its_image(db: PgPool) {
    let service = Service::start(db).await;
    let service = service.asking_for_keys(Rates::default(), Doors::default()).await;
    let path = format!("{}?w=64", service.upload_image(png(100, 100, 90)).await.text("url"));
    assert_eq!(service.get(&path).await.status, 200);
    let (_, other) = service.project_with_key("other", &["read"]).await;

    let without = service.send(service.request_without_key(Method::GET, &path)).await;
    let of_other = service.request_without_key(Method::GET, &path).bearer_auth(other);
    let of_other = service.send(of_other).await;

    assert_eq!((without.status, of_other.status), (401, 404));
}
