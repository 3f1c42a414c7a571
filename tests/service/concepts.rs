//! Concepts: names, lists, cursors.

use serde_json::json;
use sqlx::PgPool;

use crate::harness::Service;

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_concept_is_found_by_id_and_by_handle(db: PgPool) {
    let service = Service::start(db).await;

    let body = json!({ "handle": "rex", "modifier_token": "<rex>", "class_noun": "dog" });
    let created = service.post("/v1/concepts", body).await;

    assert_eq!(created.status, 201);
    assert_eq!(created.body["modifier_token"], "<rex>");
    assert_eq!(created.body["image_count"], 0);
    assert_eq!(created.body["current_delta"], json!(null));
    assert_eq!(service.get(created.header("location")).await.body, created.body);
    assert_eq!(service.get("/v1/concepts/rex").await.body, created.body);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_taken_handle_or_modifier_token_is_a_conflict(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("rex", Some("<rex>"), "dog").await;
    let before = service.contents().await;

    let handle =
        service.post("/v1/concepts", json!({ "handle": "rex", "class_noun": "cat" })).await;
    let body = json!({ "handle": "max", "modifier_token": "<rex>", "class_noun": "cat" });
    let token = service.post("/v1/concepts", body).await;

    assert_eq!(handle.problem(), (409, "handle_taken", vec!["/handle"]));
    assert_eq!(token.problem(), (409, "modifier_token_taken", vec!["/modifier_token"]));
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn wrong_fields_are_named_and_change_nothing(db: PgPool) {
    let service = Service::start(db).await;
    let before = service.contents().await;

    for (body, code, pointer) in [
        (
            json!({ "handle": "rex", "class_noun": "dog", "color": "blue" }),
            "unknown_field",
            "/color",
        ),
        (json!({ "handle": "rex" }), "missing_field", "/class_noun"),
        (json!({ "handle": "Rex!", "class_noun": "dog" }), "invalid_value", "/handle"),
        (json!({ "handle": "rex", "class_noun": "" }), "invalid_value", "/class_noun"),
        (
            json!({ "handle": "rex", "class_noun": "dog", "modifier_token": "rex" }),
            "invalid_value",
            "/modifier_token",
        ),
        (json!({ "handle": 7, "class_noun": "dog" }), "invalid_value", "/handle"),
    ] {
        let answer = service.post("/v1/concepts", body).await;
        assert_eq!(answer.problem(), (422, code, vec![pointer]));
    }
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_list_goes_on_where_it_stopped(db: PgPool) {
    let service = Service::start(db).await;
    for handle in ["a", "b", "c", "d", "e"] {
        service.concept(handle, None, "dog").await;
    }

    let (mut handles, mut pages, mut path) = (Vec::new(), 0, "/v1/concepts?limit=2".to_owned());
    loop {
        let page = service.get(&path).await;
        assert_eq!(page.status, 200, "{page:?}");
        pages += 1;
        for concept in page.body["data"].as_array().unwrap() {
            handles.push(concept["handle"].as_str().unwrap().to_owned());
        }
        match page.body["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/concepts?limit=2&after={cursor}"),
            None => break,
        }
    }

    assert_eq!(handles, ["e", "d", "c", "b", "a"]);
    assert_eq!(pages, 3);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn wrong_list_parameters_are_refused(db: PgPool) {
    let service = Service::start(db).await;

    assert_eq!(
        service.get("/v1/concepts?limit=0").await.problem(),
        (422, "out_of_range", vec!["limit"])
    );
    assert_eq!(
        service.get("/v1/concepts?after=x").await.problem(),
        (422, "invalid_cursor", vec!["after"])
    );
    assert_eq!(service.get("/v1/concepts?page=2").await.problem().1, "unknown_field");
    assert_eq!(service.get("/v1/concepts?limit=ten").await.problem().1, "invalid_value");
}
