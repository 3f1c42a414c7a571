//! Compressed answers.

use std::io::Read;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{Answer, Service};

async fn with_encoding(service: &Service, path: &str, encoding: &str) -> Answer {
    service.send(service.request(Method::GET, path).header("accept-encoding", encoding)).await
}

fn unzipped(answer: &Answer) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(answer.bytes.as_slice()).read_to_end(&mut plain).unwrap();
    plain
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn json_and_pages_are_compressed_for_those_who_take_it(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 8).await;

    for path in
        ["/v1/concepts/rex/images", "/v1/capabilities", "/openapi.json", "/docs", "/metrics"]
    {
        let plain = service.get(path).await;
        assert_eq!(plain.header("content-encoding"), "", "{path}");
        for encoding in ["gzip", "br, gzip;q=0.5", "*"] {
            let packed = with_encoding(&service, path, encoding).await;
            assert_eq!((packed.status, packed.header("content-encoding")), (200, "gzip"), "{path}");
            assert!(packed.bytes.len() * 2 < plain.bytes.len(), "{path}: {}", packed.bytes.len());
            assert_eq!(packed.header("content-length"), packed.bytes.len().to_string(), "{path}");
            assert_eq!(packed.header("content-type"), plain.header("content-type"), "{path}");
            if path != "/metrics" {
                assert_eq!(unzipped(&packed), plain.bytes, "{path}");
            }
        }
        for encoding in ["identity", "gzip;q=0", "br", "identity;q=0, br"] {
            let answer = with_encoding(&service, path, encoding).await;
            assert_eq!((answer.status, answer.header("content-encoding")), (200, ""), "{encoding}");
        }
        let vary: Vec<_> =
            plain.headers.get_all("vary").iter().map(|one| one.to_str().unwrap()).collect();
        assert!(vary.contains(&"accept-encoding"), "{path}: {vary:?}");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_is_small_or_compressed_already_is_left_as_it_is(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 4).await;
    let photos = service.get("/v1/concepts/rex/images").await;
    let image = photos.body["data"][0]["url"].as_str().unwrap().to_owned();

    for path in [image.as_str(), &format!("{image}?w=64"), "/v1/concepts/rex", "/livez"] {
        let answer = with_encoding(&service, path, "gzip").await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, ""), "{path}");
    }
    let range = service.request(Method::GET, &image).header("accept-encoding", "gzip");
    let range = service.send(range.header("range", "bytes=1-3")).await;
    assert_eq!(
        (range.status, range.header("content-encoding"), &range.bytes[..]),
        (206, "", &b"PNG"[..])
    );
    // The studio's files bring their own compressed form.
    let page = with_encoding(&service, "/", "gzip").await;
    let vary = page.headers.get_all("vary").iter().filter(|one| *one == "accept-encoding").count();
    assert_eq!((page.header("content-encoding"), vary), ("gzip", 1), "{page:?}");
    assert!(unzipped(&page).starts_with(b"<!doctype html>"));
    let refused = with_encoding(&service, "/v1/concepts/nobody", "gzip").await;
    assert_eq!((refused.problem().0, refused.header("content-encoding")), (404, ""));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_compressed_answer_has_a_strong_tag_of_its_own_which_counts_like_the_plain_one(
    db: PgPool,
) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 4).await;
    let body = json!({ "prompt": format!("a dog {}", "x ".repeat(20)), "metadata": { "a": "z".repeat(500), "b": "z".repeat(500) } });
    let sample = service.post("/v1/samples", body).await;
    let path = sample.header("location").to_owned();
    let get = async |encoding: &str, known: Option<&str>| {
        let request = service.request(Method::GET, &path).header("accept-encoding", encoding);
        service
            .send(known.iter().fold(request, |request, tag| request.header("if-none-match", *tag)))
            .await
    };

    let (plain, packed) = (get("identity", None).await, get("gzip", None).await);
    let (tag, packed_tag) = (plain.header("etag"), packed.header("etag"));
    assert_eq!(packed_tag, format!("{}-gzip\"", tag.trim_end_matches('"')));
    assert_eq!(serde_json::from_slice::<Value>(&unzipped(&packed)).unwrap(), plain.body);

    for (encoding, known, expected) in
        [("gzip", packed_tag, packed_tag), ("identity", packed_tag, tag), ("gzip", tag, tag)]
    {
        let again = get(encoding, Some(known)).await;
        assert_eq!((again.status, again.header("etag"), again.bytes.len()), (304, expected, 0));
        let mut varies = again.headers.get_all("vary").iter();
        assert!(varies.any(|by| *by == "accept-encoding"), "{again:?}");
    }
    let cancel = |tag: &str| {
        service.request(Method::POST, &format!("{path}/cancel")).header("if-match", tag)
    };
    let stale = packed_tag.replace("\"1-", "\"9-");
    assert_eq!(service.send(cancel(&stale)).await.problem().0, 412);
    assert_eq!(service.send(cancel(packed_tag)).await.text("status"), "canceled");

    // A list has a weak tag, which is the same for both.
    let list = with_encoding(&service, "/v1/concepts/rex/images", "gzip").await;
    assert_eq!(list.header("etag"), service.get("/v1/concepts/rex/images").await.header("etag"));
    assert!(list.header("etag").starts_with("W/"), "{list:?}");
}
