//! Downloads: as much of an object as is asked for, in pieces, and nothing but what was stored.

use reqwest::Method;
use sqlx::PgPool;
use vstar::storage::StorageKey;

use crate::harness::Service;

/// A PNG of some megabytes: noise does not compress.
fn large_png() -> Vec<u8> {
    let mut state = 1_u64;
    let image = image::RgbImage::from_fn(1200, 1000, |_, _| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        image::Rgb([(state >> 33) as u8, (state >> 41) as u8, (state >> 49) as u8])
    });
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_range_reads_what_is_asked_for_and_no_more(db: PgPool) {
    let service = Service::start(db).await;
    let image = service.upload_image(large_png()).await;
    let (url, size) = (image.text("url"), image.body["size_bytes"].as_u64().unwrap());
    assert!(size > 3 << 20);
    let read_before = service.store.read_bytes();

    let part = service.request(Method::GET, &url).header("range", "bytes=2000000-2000000");
    let part = service.send(part).await;
    let read_for_part = service.store.read_bytes() - read_before;
    let whole = service.get(&url).await;
    let end = service.send(service.request(Method::GET, &url).header("range", "bytes=-3")).await;

    assert_eq!((part.status, read_for_part), (206, 1));
    assert_eq!(part.header("content-range"), format!("bytes 2000000-2000000/{size}"));
    assert_eq!((whole.status, whole.bytes.len() as u64), (200, size));
    assert_eq!(whole.header("content-length"), size.to_string());
    assert_eq!(part.bytes, whole.bytes[2_000_000..2_000_001]);
    assert_eq!(end.bytes, whole.bytes[whole.bytes.len() - 3..]);
    assert_eq!(vstar::domain::digest::Digest::of(&whole.bytes).as_str(), image.text("sha256"));
}

/// An object of which a client has read a part is not what was stored: the client does not get to its end.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_file_that_is_not_what_was_stored_is_not_sent_whole(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let image = service.upload_image(large_png()).await;
    let key: String =
        sqlx::query_scalar("select storage_key from image").fetch_one(&db).await.unwrap();
    let key = StorageKey::from(key);
    let mut damaged = service.storage.read(&key).await.unwrap().to_vec();
    damaged[1000] ^= 1;
    service.storage.replace(&key, damaged).await.unwrap();

    let response = service.request(Method::GET, &image.text("url")).send().await.unwrap();

    assert!(response.bytes().await.is_err(), "the body ends before its length");
}
