//! Metadata, external ids and revisions; merge patches; filters and the order of lists.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{Answer, DIGEST, Service, png};
use crate::image_sets::uploaded;

async fn patch(service: &Service, path: &str, body: Value) -> Answer {
    service.send(service.request(Method::PATCH, path).json(&body)).await
}

/// The paths of one object of each kind.
async fn one_of_each(service: &Service) -> Vec<String> {
    let (concept, delta) = service.trained_concept("rex", DIGEST).await;
    let photos = service.get("/v1/concepts/rex/images").await;
    let photo = photos.body["data"][0]["id"].as_str().unwrap().to_owned();
    let upload = service.upload_image(png(64, 48, 9)).await.text("id");
    let set = uploaded(service, &["a dog"]).await.text("id");
    let mut paths: Vec<String> = [
        ("concepts", concept),
        ("deltas", delta.clone()),
        ("images", photo),
        ("images", upload),
        ("image-sets", set),
    ]
    .into_iter()
    .map(|(kind, id)| format!("/v1/{kind}/{id}"))
    .collect();
    for (path, body) in [
        ("/v1/trainings".to_owned(), json!({ "concepts": ["rex"] })),
        ("/v1/samples".to_owned(), json!({ "prompt": "<rex> dog" })),
        (format!("/v1/deltas/{delta}/compress"), json!({ "rank": 4 })),
    ] {
        let started = service.post(&path, body).await;
        assert_eq!(started.status, 202, "{started:?}");
        paths.push(started.header("location").to_owned());
    }
    paths
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_resource_has_labels_and_a_revision_that_grows_with_every_change(db: PgPool) {
    let service = Service::start(db).await;
    for path in one_of_each(&service).await {
        let before = service.get(&path).await;
        assert_eq!(before.body["metadata"], json!({}), "{path}: {before:?}");
        assert_eq!(before.body["external_id"], Value::Null, "{path}");
        for field in ["object", "created_at", "updated_at"] {
            assert!(before.body[field].is_string(), "{path}: {field}");
        }
        let revision = before.body["revision"].as_i64().unwrap();

        let body = json!({ "metadata": { "order": "7", "by": "é" }, "external_id": path });
        let changed = patch(&service, &path, body).await;
        assert_eq!(changed.status, 200, "{path}: {changed:?}");
        assert_eq!(changed.body["metadata"], json!({ "order": "7", "by": "é" }));
        assert_eq!(changed.body["revision"], revision + 1, "{path}");
        assert_eq!(service.get(&path).await.body, changed.body);

        // What is absent stays, what is null goes; what is the same is no change.
        let request = service.request(Method::PATCH, &path);
        let request = request.header("content-type", "application/merge-patch+json");
        let merged = service.send(request.body(r#"{"metadata":{"by":null,"x":"1"}}"#)).await;
        assert_eq!(
            merged.body["metadata"],
            json!({ "order": "7", "x": "1" }),
            "{path}: {merged:?}"
        );
        assert_eq!(merged.body["external_id"], path.as_str());
        let same = patch(&service, &path, json!({ "metadata": { "x": "1" } })).await;
        assert_eq!(same.body["revision"], merged.body["revision"], "{path}");
        assert_eq!(patch(&service, &path, json!({})).await.body, same.body);

        // A stale tag changes nothing.
        let stale =
            service.request(Method::PATCH, &path).header("if-match", format!("\"{revision}\""));
        let stale = service.send(stale.json(&json!({ "metadata": null }))).await;
        assert_eq!(stale.problem().0, 412, "{path}");
        let tag = service.get(&path).await.header("etag").to_owned();
        let current = service.request(Method::PATCH, &path).header("if-match", tag);
        let current =
            service.send(current.json(&json!({ "metadata": null, "external_id": null }))).await;
        assert_eq!(
            (&current.body["metadata"], &current.body["external_id"]),
            (&json!({}), &Value::Null)
        );

        let too_many: serde_json::Map<_, _> = (0..17).map(|i| (i.to_string(), json!(""))).collect();
        for (body, pointer) in [
            (json!({ "metadata": too_many }), "/metadata"),
            (json!({ "metadata": { "a": 1 } }), "/metadata/a"),
            (json!({ "external_id": "" }), "/external_id"),
            (json!({ "created_at": "2026-01-01T00:00:00Z" }), "/created_at"),
        ] {
            let refused = patch(&service, &path, body).await;
            assert_eq!((refused.problem().0, refused.problem().2), (422, vec![pointer]), "{path}");
        }
    }
    for path in ["/v1/concepts/none", "/v1/samples/smp_00000000000000000000000000"] {
        assert_eq!(patch(&service, path, json!({})).await.problem().0, 404);
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_external_id_names_one_object_of_its_kind(db: PgPool) {
    let service = Service::start(db).await;
    let concept = |handle: &str| json!({ "handle": handle, "class_noun": "dog", "external_id": "order-1", "metadata": { "a": "b" } });
    let first = service.post("/v1/concepts", concept("rex")).await;
    assert_eq!((first.status, first.text("external_id")), (201, "order-1".to_owned()), "{first:?}");
    assert_eq!(first.body["metadata"], json!({ "a": "b" }));
    let before = service.contents().await;

    let second = service.post("/v1/concepts", concept("max")).await;

    assert_eq!(second.problem(), (409, "external_id_taken", vec!["/external_id"]));
    assert!(second.text("detail").contains(&first.text("id")), "{second:?}");
    assert_eq!(service.contents().await, before);
    // Another kind has its own, and each kind of job.
    let sample = json!({ "prompt": "a dog", "external_id": "order-1", "metadata": { "k": "v" } });
    let made = service.post("/v1/samples", sample.clone()).await;
    assert_eq!((made.status, &made.body["metadata"]), (202, &json!({ "k": "v" })), "{made:?}");
    let again = service.post("/v1/samples", sample).await;
    assert_eq!(again.problem(), (409, "external_id_taken", vec!["/external_id"]));
    assert!(again.text("detail").contains(&made.text("id")), "{again:?}");
    let other = service.post("/v1/samples", json!({ "prompt": "a cat" })).await;
    let taken =
        patch(&service, other.header("location"), json!({ "external_id": "order-1" })).await;
    assert_eq!(taken.problem(), (409, "external_id_taken", vec!["/external_id"]));
    let found = service.get("/v1/samples?external_id=order-1").await;
    assert_eq!(found.body["data"][0]["id"], made.body["id"]);
    assert_eq!(found.body["data"].as_array().unwrap().len(), 1);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_concept_takes_another_handle_and_its_revision_counts_its_photos(db: PgPool) {
    let service = Service::start(db).await;
    let (id, delta) = service.trained_concept("rex", DIGEST).await;
    service.concept("max", None, "dog").await;
    let path = format!("/v1/concepts/{id}");

    let taken = patch(&service, &path, json!({ "handle": "max" })).await;
    assert_eq!(taken.problem(), (409, "handle_taken", vec!["/handle"]));
    let before = service.get(&format!("/v1/deltas/{delta}")).await;
    let renamed = patch(&service, &path, json!({ "handle": "bello" })).await;
    assert_eq!((renamed.status, renamed.text("handle")), (200, "bello".to_owned()), "{renamed:?}");
    assert_eq!(service.get("/v1/concepts/rex").await.status, 404);
    // The delta tells the handle of its concept.
    let after = service.get(&format!("/v1/deltas/{delta}")).await;
    assert_eq!(after.body["concepts"][0]["handle"], "bello");
    assert_ne!(after.header("etag"), before.header("etag"));

    let uploaded =
        service.upload(&format!("{path}/images"), vec![("a.png", png(64, 48, 77))]).await;
    assert_eq!(uploaded.status, 201, "{uploaded:?}");
    let grown = service.get(&path).await;
    assert_eq!(grown.body["image_count"], 5);
    assert!(grown.body["revision"].as_i64() > renamed.body["revision"].as_i64());
    for fixed in ["class_noun", "modifier_token"] {
        let refused = patch(&service, &path, json!({ fixed: "cat" })).await;
        assert_eq!(refused.problem().1, "unknown_field", "{fixed}");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn one_of_sixteen_changes_with_the_same_tag_wins(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("rex", None, "dog").await;
    let tag = service.get("/v1/concepts/rex").await.header("etag").to_owned();

    let changes = (0..16).map(|number: i32| {
        let request = service.request(Method::PATCH, "/v1/concepts/rex").header("if-match", &tag);
        service.send(request.json(&json!({ "metadata": { "n": number.to_string() } })))
    });
    let answers = futures::future::join_all(changes).await;

    let won = answers.iter().filter(|answer| answer.status == 200).count();
    let lost = answers.iter().filter(|answer| answer.status == 412).count();
    assert_eq!((won, lost), (1, 15));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn lists_have_filters_an_order_and_the_address_of_the_next_page(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;
    let mut samples = Vec::new();
    for number in 0..5 {
        let prompt = if number % 2 == 0 { "<rex> dog" } else { "a cat" };
        let sample = service.post("/v1/samples", json!({ "prompt": prompt })).await;
        samples.push((sample.text("id"), sample.text("created_at")));
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    service.post(&format!("/v1/samples/{}/cancel", samples[1].0), json!({})).await;
    let list = async |query: &str| {
        let answer = service.get(&format!("/v1/samples?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        let place = |item: &Value| samples.iter().position(|(id, _)| item["id"] == id.as_str());
        let data = answer.body["data"].as_array().unwrap().iter();
        data.map(|item| place(item).unwrap()).collect::<Vec<usize>>()
    };

    assert_eq!(list("").await, [4, 3, 2, 1, 0]);
    assert_eq!(list("order=asc").await, [0, 1, 2, 3, 4]);
    assert_eq!(list("status=canceled").await, [1]);
    assert_eq!(list("status=queued&order=asc").await, [0, 2, 3, 4]);
    assert_eq!(list("concept=rex").await, [4, 2, 0]);
    assert_eq!(list("concept=rex&status=canceled").await, [0; 0]);
    let time = |place: usize| samples[place].1.replace('+', "%2B");
    assert_eq!(
        list(&format!("created_after={}", time(3))).await,
        [4, 3],
        "by less than a millisecond"
    );
    assert_eq!(list(&format!("created_before={}&order=asc", time(2))).await, [0, 1]);

    // Page by page by the header alone.
    let (mut path, mut seen) = ("/v1/samples?limit=2&order=asc&concept=rex".to_owned(), Vec::new());
    loop {
        let page = service.get(&path).await;
        seen.extend(page.body["data"].as_array().unwrap().iter().map(|item| item["id"].clone()));
        let link = page.header("link").to_owned();
        assert_eq!(link.is_empty(), page.body["has_more"] == false);
        let Some((next, _)) =
            link.strip_prefix('<').and_then(|rest| rest.split_once(">; rel=\"next\""))
        else {
            break;
        };
        path = next.to_owned();
    }
    assert_eq!(seen, [0, 2, 4].map(|place| json!(samples[place].0)));

    for (query, code) in [
        ("status=done", "invalid_value"),
        ("order=up", "invalid_value"),
        ("created_after=yesterday", "invalid_value"),
        ("state=queued", "unknown_field"),
    ] {
        let refused = service.get(&format!("/v1/samples?{query}")).await;
        assert_eq!((refused.problem().0, refused.problem().1), (422, code), "{query}");
    }
    assert_eq!(service.get("/v1/samples?concept=max").await.problem().0, 404);
}
