//! What lists are searched by: names of concepts, prompts and seeds of samples, digests of deltas.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{Answer, DIGEST, Service, png};

/// A field of every item of a list.
fn all(list: &Answer, field: &str) -> Vec<String> {
    assert_eq!(list.status, 200, "{list:?}");
    let items = list.body["data"].as_array().unwrap().iter();
    items.map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn concepts_are_found_by_parts_of_their_names(db: PgPool) {
    let service = Service::start(db).await;
    for (handle, token, noun) in [
        ("rex", Some("<rex>"), "golden retriever"),
        ("my_dog", Some("<new1>"), "Dog"),
        ("vase-100", None, "vase"),
    ] {
        service.concept(handle, token, noun).await;
    }

    for (query, expected) in [
        ("q=rex", &["rex"][..]),
        ("q=RETR", &["rex"]),
        ("q=%3Cnew", &["my_dog"]),
        ("q=dog", &["my_dog"]),
        ("q=re%20gold", &["rex"]),
        ("q=e", &["vase-100", "my_dog", "rex"]),
        ("q=e&order=asc&limit=2", &["rex", "my_dog"]),
        // Nothing stands for something else.
        ("q=%25", &[]),
        ("q=_", &["my_dog"]),
        ("q=y.d", &[]),
        ("q=%5C", &[]),
        // No word asks for nothing.
        ("q=", &["vase-100", "my_dog", "rex"]),
        ("q=%20%0A", &["vase-100", "my_dog", "rex"]),
        ("q=rex&external_id=none", &[]),
    ] {
        let list = service.get(&format!("/v1/concepts?{query}")).await;
        assert_eq!(all(&list, "handle"), expected, "{query}");
    }
    let page = service.get("/v1/concepts?q=e&limit=1").await;
    let next = page.header("link").split(['<', '>']).nth(1).unwrap().to_owned();
    assert_eq!(all(&service.get(&next).await, "handle"), ["my_dog"], "{next}");
    let long = service.get(&format!("/v1/concepts?q={}", "x".repeat(201))).await;
    assert_eq!(long.problem(), (422, "invalid_value", vec!["q"]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_cover_of_a_concept_is_its_first_photo(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("blank", None, "vase").await;
    service.concept("rex", Some("<rex>"), "dog").await;
    let mut photos = Vec::new();
    for shade in 0..2 {
        let path = "/v1/concepts/rex/images";
        let added = service.upload(path, vec![("a.png", png(64, 64, shade))]).await;
        photos.push(added.body["data"][0]["image"].clone());
    }

    let covers = |list: &Answer| {
        let of = |at: usize| list.body["data"][at]["cover"].clone();
        [of(0), of(1)]
    };
    let list = service.get("/v1/concepts").await;
    assert_eq!(covers(&list), [photos[0]["url"].clone(), json!(null)], "{list:?}");
    let cover = service.get(photos[0]["url"].as_str().unwrap()).await;
    assert_eq!(cover.header("content-type"), "image/png");

    let before = service.get("/v1/concepts/rex").await;
    let path = format!("/v1/images/{}", photos[0]["id"].as_str().unwrap());
    assert_eq!(service.send(service.request(Method::DELETE, &path)).await.status, 200);
    let after = service.get("/v1/concepts/rex").await;
    assert_eq!(
        (&before.body["cover"], &after.body["cover"]),
        (&photos[0]["url"], &photos[1]["url"])
    );
    assert_ne!(before.header("etag"), after.header("etag"));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn samples_are_found_by_words_of_their_prompt_and_by_their_seed(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;
    let largest = 9_007_199_254_740_991_u64;
    let mut ids = Vec::new();
    for (prompt, seed) in [
        ("photo of a <rex> dog on the Beach", 7),
        ("a dog, 100% ÉCOLE", 7),
        ("a cat on the beach", largest),
    ] {
        let sample = service.post("/v1/samples", json!({ "prompt": prompt, "seed": seed })).await;
        assert_eq!(sample.status, 202, "{sample:?}");
        ids.push(sample.text("id"));
    }
    service.post(&format!("/v1/samples/{}/cancel", ids[2]), json!({})).await;

    for (query, expected) in [
        ("prompt=beach", &[2, 0][..]),
        ("prompt=dog%20bea", &[0]),
        ("prompt=%3Crex%3E", &[0]),
        ("prompt=%C3%A9cole", &[1]),
        ("prompt=0%25", &[1]),
        ("prompt=%25", &[1]),
        ("prompt=_", &[]),
        ("prompt=", &[2, 1, 0]),
        ("seed=7", &[1, 0]),
        ("seed=7&order=asc", &[0, 1]),
        ("seed=7&prompt=BEACH", &[0]),
        ("seed=7&concept=rex", &[0]),
        ("prompt=a&concept=rex", &[0]),
        ("seed=7&status=canceled", &[]),
        ("prompt=beach&status=canceled", &[2]),
        ("prompt=beach&status=queued", &[0]),
        ("seed=9007199254740991", &[2]),
        ("seed=8", &[]),
    ] {
        let list = service.get(&format!("/v1/samples?{query}")).await;
        let expected: Vec<&str> = expected.iter().map(|at: &usize| ids[*at].as_str()).collect();
        assert_eq!(all(&list, "id"), expected, "{query}");
    }
    let first = service.get("/v1/samples?prompt=beach&limit=1").await;
    let after = first.text("next_cursor");
    let second = service.get(&format!("/v1/samples?prompt=beach&limit=1&after={after}")).await;
    assert_eq!(
        (all(&first, "id"), all(&second, "id")),
        (vec![ids[2].clone()], vec![ids[0].clone()])
    );
    for (query, code) in [
        ("seed=9007199254740992", "out_of_range"),
        ("seed=-1", "invalid_value"),
        ("seed=x", "invalid_value"),
    ] {
        let refused = service.get(&format!("/v1/samples?{query}")).await;
        assert_eq!(refused.problem(), (422, code, vec!["seed"]), "{query}");
    }
    // Only samples have prompts and seeds.
    let unknown = service.get("/v1/trainings?seed=7").await;
    assert_eq!(unknown.problem(), (422, "unknown_field", vec!["seed"]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn deltas_are_found_by_the_digest_of_their_file(db: PgPool) {
    let service = Service::start(db).await;
    let (_, rex) = service.trained_concept("rex", DIGEST).await;
    let (_, max) = service.trained_concept("max", DIGEST).await;
    let digest = format!("abc{}", "0".repeat(61));
    let set = "update delta set sha256 = $1 where delta_id in (select delta_id from delta_concept join concept using (concept_id) where handle = 'rex')";
    sqlx::query(set).bind(&digest).execute(&service.db).await.unwrap();

    for (query, expected) in [
        (format!("sha256={digest}"), vec![rex.clone()]),
        (format!("sha256={}", digest.to_uppercase()), vec![rex.clone()]),
        (format!("sha256={digest}&concept=rex"), vec![rex.clone()]),
        (format!("sha256={digest}&concept=max"), vec![]),
        (format!("sha256={digest}&external_id=none"), vec![]),
        (format!("sha256={}", "0".repeat(64)), vec![]),
        (String::new(), vec![max, rex]),
    ] {
        let list = service.get(&format!("/v1/deltas?{query}")).await;
        assert_eq!(all(&list, "id"), expected, "{query}");
    }
    for wrong in ["abc", "", &"g".repeat(64), "%00"] {
        let refused = service.get(&format!("/v1/deltas?sha256={wrong}")).await;
        assert_eq!(refused.problem(), (422, "invalid_value", vec!["sha256"]), "{wrong}");
    }
}
