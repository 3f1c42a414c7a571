//! Keys, client tokens, limits, and who may come from where.

mod projects;

use chrono::{TimeDelta, Utc};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::app::access::Rates;
use vstar::http::Doors;

use crate::harness::{Answer, Service, png};

/// Every scope but that of administrators.
const EVERYTHING: &[&str] = &[
    "read",
    "concepts:write",
    "trainings:write",
    "samples:write",
    "weights:read",
    "webhooks:write",
];

async fn keyed(db: PgPool) -> Service {
    Service::start(db).await.asking_for_keys(Rates::default(), Doors::default()).await
}

async fn get(
    service: &Service,
    path: &str,
    with: impl FnOnce(RequestBuilder) -> RequestBuilder,
) -> Answer {
    service.send(with(service.request_without_key(Method::GET, path))).await
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_request_without_a_good_key_is_refused_before_anything_else(db: PgPool) {
    let service = keyed(db).await;
    let me = service.get("/v1/me").await;
    assert_eq!(me.body["key"]["name"], "first key", "{me:?}");
    let good = service.request(Method::GET, "/v1/me").build().unwrap();
    let good = good.headers()["authorization"]
        .to_str()
        .unwrap()
        .strip_prefix("Bearer ")
        .unwrap()
        .to_owned();

    for field in [format!("bearer {good}"), format!("BEARER  {good}"), format!("Bearer {good} ")] {
        let answer =
            get(&service, "/v1/me", |request| request.header("authorization", &field)).await;
        assert_eq!(answer.status, 200, "{field}");
    }
    let last = if good.ends_with('x') { 'y' } else { 'x' };
    let wrong_secret = format!("{}{last}", &good[..good.len() - 1]);
    for fields in [
        vec![],
        vec![format!("Basic {good}")],
        vec![format!("Bearer {}", good.to_uppercase())],
        vec![format!("Bearer {wrong_secret}")],
        vec![format!("Bearer {good}x")],
        vec![format!("Bearer {}", "x".repeat(10_000))],
        vec![format!("Bearer {good}"), format!("Bearer {good}")],
        vec![good.clone()],
    ] {
        let answer = get(&service, "/v1/concepts/rex", |mut request| {
            for field in &fields {
                request = request.header("authorization", field);
            }
            request
        })
        .await;
        assert_eq!(answer.problem(), (401, "unauthenticated", vec![]), "{fields:?}");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"vstar\"");
        assert!(!String::from_utf8_lossy(&answer.bytes).contains(&good[10..]), "{answer:?}");
    }
    let binary = reqwest::header::HeaderValue::from_bytes(b"Bearer \xff").unwrap();
    let answer = get(&service, "/v1/me", |request| request.header("authorization", binary)).await;
    assert_eq!(answer.status, 401);
    let in_query = get(&service, &format!("/v1/me?token={good}"), |request| request).await;
    assert_eq!(in_query.status, 401, "keys are not sent where logs have them");

    for open in ["/livez", "/readyz", "/openapi.json"] {
        assert_eq!(get(&service, open, |request| request).await.status, 200, "{open}");
    }
    assert_eq!(get(&service, "/v1/nothing", |request| request).await.status, 404);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_operation_asks_for_a_key_and_says_so(db: PgPool) {
    let service = keyed(db).await;
    let document: Value = serde_json::from_str(&vstar::http::openapi().to_json().unwrap()).unwrap();
    let mut closed = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let filled = path.replace(['{', '}'], "");
            let answer = service.send(service.request_without_key(method.clone(), &filled)).await;
            let is_open = operation["security"] == json!([]);
            if is_open {
                assert_ne!(answer.status, 401, "{method} {path}");
            } else {
                closed += 1;
                assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
                assert_eq!(operation["security"], json!([{ "key": [] }]), "{method} {path}");
            }
        }
    }
    assert!(closed > 80, "{closed}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_key_does_what_its_scopes_say(db: PgPool) {
    let service = keyed(db).await;
    let (project, reader) = service.project_with_key("readers", &["read"]).await;
    let body = json!({ "handle": "rex", "class_noun": "dog" });
    let post = |path: &str| service.request_without_key(Method::POST, path).bearer_auth(&reader);

    let read = get(&service, "/v1/concepts", |request| request.bearer_auth(&reader)).await;
    let write = service.send(post("/v1/concepts").json(&body)).await;
    let weights = "/v1/deltas/dlt_01jd8q2m5xet8v3k9c0r4n7w6a/content";
    let weights = get(&service, weights, |request| request.bearer_auth(&reader)).await;
    let keys = get(&service, "/v1/api-keys", |request| request.bearer_auth(&reader)).await;

    assert_eq!(read.status, 200);
    assert_eq!(write.problem(), (403, "missing_scope", vec![]));
    assert_eq!(weights.problem(), (403, "missing_scope", vec![]));
    assert_eq!(keys.problem(), (403, "missing_scope", vec![]));
    let me = get(&service, "/v1/me", |request| request.bearer_auth(&reader)).await;
    assert_eq!(
        (&me.body["scopes"], me.body["project"]["id"].as_str()),
        (&json!(["read"]), Some(project.as_str()))
    );
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn keys_are_shown_once_rotated_and_deleted(db: PgPool) {
    let service = keyed(db).await;
    let made = service.post("/v1/api-keys", json!({ "name": "app", "scopes": ["read"] })).await;
    assert_eq!(made.status, 201, "{made:?}");
    let (id, first) = (made.text("id"), made.text("secret"));
    let path = format!("/v1/api-keys/{id}");
    let works = async |key: &str| {
        get(&service, "/v1/concepts", |request| request.bearer_auth(key)).await.status == 200
    };

    let shown = service.get(&path).await;
    assert!(shown.body.get("secret").is_none() && first.starts_with(&shown.text("prefix")));
    let listed = service.get("/v1/api-keys").await;
    assert!(!String::from_utf8_lossy(&listed.bytes).contains(&first[15..]));
    let stored: Vec<u8> = sqlx::query_scalar("select secret_mac from api_key where public_id = $1")
        .bind(&first[6..14])
        .fetch_one(&service.db)
        .await
        .unwrap();
    assert_eq!(stored.len(), 32, "an HMAC and not the secret");
    assert!(works(&first).await);

    let rotated = service.post(&format!("{path}/rotate"), json!({})).await.text("secret");
    assert!(works(&first).await && works(&rotated).await && first != rotated);
    let at_once = service.post(&format!("{path}/rotate"), json!({ "overlap_seconds": 0 })).await;
    assert!(works(&at_once.text("secret")).await);
    assert!(!works(&first).await && !works(&rotated).await);
    let too_long =
        service.post(&format!("{path}/rotate"), json!({ "overlap_seconds": 604_801 })).await;
    assert_eq!(too_long.problem(), (422, "out_of_range", vec!["/overlap_seconds"]));

    let deleted = service.send(service.request(Method::DELETE, &path)).await;
    assert_eq!((deleted.status, &deleted.body["removed"]["api_keys"]), (200, &json!(1)));
    assert!(!works(&at_once.text("secret")).await);
    assert_eq!(service.get(&path).await.status, 404);

    let soon = (Utc::now() + TimeDelta::milliseconds(1500)).to_rfc3339();
    let body = json!({ "name": "brief", "scopes": ["read"], "expires_at": soon });
    let brief = service.post("/v1/api-keys", body).await.text("secret");
    assert!(works(&brief).await);
    tokio::time::sleep(std::time::Duration::from_millis(1600)).await;
    assert!(!works(&brief).await, "it has expired");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_last_use_of_a_key_is_known(db: PgPool) {
    let service = keyed(db).await;
    service.get("/v1/concepts").await;
    for _ in 0..100 {
        if service.get("/v1/me").await.body["key"]["last_used_at"].is_string() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the use was not noted");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_client_token_is_good_for_its_own_thing(db: PgPool) {
    let service = keyed(db).await;
    let concept = service.concept_with_photos("rex", 4).await;
    let other = service.concept_with_photos("tom", 4).await;
    let training = service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await.text("id");
    let origin = "https://shop.example";
    let body = json!({ "concept": "rex", "origin": origin, "expires_in_seconds": 60 });
    let token = service.post("/v1/client-tokens", body).await;
    assert_eq!(token.status, 201, "{token:?}");
    assert_eq!(token.text("resource"), format!("/v1/concepts/{concept}"));
    let token = token.text("token");
    let from_page = |request: RequestBuilder| request.bearer_auth(&token).header("origin", origin);

    let own = format!("/v1/concepts/{concept}");
    assert_eq!(get(&service, &own, from_page).await.status, 200);
    assert_eq!(get(&service, &format!("{own}/images"), from_page).await.status, 200);
    let photo = reqwest::multipart::Part::bytes(png(64, 48, 77)).file_name("a.png");
    let form = reqwest::multipart::Form::new().part("files", photo);
    let upload = service.request_without_key(Method::POST, &format!("{own}/images"));
    assert_eq!(service.send(from_page(upload).multipart(form)).await.status, 201);
    for (method, path) in [
        (Method::GET, format!("/v1/concepts/{other}")),
        (Method::GET, "/v1/concepts".to_owned()),
        (Method::DELETE, own.clone()),
        (Method::POST, "/v1/client-tokens".to_owned()),
        (Method::GET, "/v1/me".to_owned()),
    ] {
        let answer = service.send(from_page(service.request_without_key(method, &path))).await;
        assert_eq!(answer.problem(), (403, "missing_scope", vec![]), "{path}");
    }
    let elsewhere = get(&service, &own, |request| {
        request.bearer_auth(&token).header("origin", "https://evil.example")
    })
    .await;
    assert_eq!(elsewhere.problem(), (403, "origin_not_allowed", vec![]));

    let of_job = service.post("/v1/client-tokens", json!({ "job": training })).await.text("token");
    let path = format!("/v1/trainings/{training}");
    assert_eq!(
        get(&service, &format!("{path}?token={of_job}"), |request| request).await.status,
        200
    );
    let events = format!("{}{path}/events?token={of_job}", service.address());
    let stream = reqwest::get(&events).await.unwrap();
    assert_eq!(stream.status(), 200);
    let cancel = service.request_without_key(Method::POST, &format!("{path}/cancel"));
    assert_eq!(service.send(cancel.bearer_auth(&of_job)).await.status, 403);

    for wrong in [
        json!({}),
        json!({ "concept": "rex", "job": training }),
        json!({ "concept": "nobody" }),
        json!({ "concept": "rex", "expires_in_seconds": 901 }),
        json!({ "concept": "rex", "origin": "shop.example" }),
    ] {
        assert_eq!(service.post("/v1/client-tokens", wrong.clone()).await.status, 422, "{wrong}");
    }
    let key = service.get("/v1/me").await.body["key"]["id"].as_str().unwrap().to_owned();
    service.send(service.request(Method::DELETE, &format!("/v1/api-keys/{key}"))).await;
    assert_eq!(get(&service, &own, from_page).await.status, 401, "it dies with its key");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_key_that_asks_too_often_is_told_when_to_come_back(db: PgPool) {
    let rates = Rates { reads_per_minute: 3, writes_per_minute: 0 };
    let service = Service::start(db).await.asking_for_keys(rates, Doors::default()).await;

    let first = service.get("/v1/concepts").await;
    assert_eq!(first.header("ratelimit-policy"), "\"reads\";q=3;w=60");
    assert_eq!(first.header("ratelimit"), "\"reads\";r=2;t=20");
    service.get("/v1/concepts").await;
    service.get("/v1/concepts").await;
    let refused = service.get("/v1/concepts").await;

    assert_eq!(refused.problem(), (429, "rate_limited", vec![]));
    assert_eq!((refused.header("retry-after"), &refused.body["retryable"]), ("20", &json!(true)));
    assert!(refused.header("ratelimit").starts_with("\"reads\";r=0;"));
    let write = json!({ "handle": "rex", "class_noun": "dog" });
    let write = service.post("/v1/concepts", write).await;
    assert_eq!((write.status, write.header("ratelimit")), (201, ""), "each class has its own");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_quota_counts_what_exists(db: PgPool) {
    let service = keyed(db).await;
    let project = service.get("/v1/me").await.body["project"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/projects/{project}");
    let limit = async |body: Value| {
        let request = service.request(Method::PATCH, &path).json(&body);
        assert_eq!(service.send(request).await.status, 200);
    };
    limit(json!({ "max_concepts": 3, "max_active_jobs": 1 })).await;
    let concept = |index: usize| json!({ "handle": format!("c{index}"), "class_noun": "dog" });
    let answers = futures::future::join_all(
        (0..12).map(|index| service.post("/v1/concepts", concept(index))),
    )
    .await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 3, "together they cannot take more than there are places");
    let refused = answers.iter().find(|answer| answer.status != 201).unwrap();
    assert_eq!(refused.problem(), (429, "quota_exceeded", vec![]));

    limit(json!({ "max_concepts": null })).await;
    service.concept_with_photos("rex", 4).await;
    let start = async || service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await;
    let running = start().await;
    assert_eq!(running.status, 202, "{running:?}");
    assert_eq!(start().await.problem().1, "quota_exceeded");
    service.post(&format!("/v1/trainings/{}/cancel", running.text("id")), json!({})).await;
    assert_eq!(start().await.status, 202, "what has ended counts no more");

    let stored = service.get("/v1/usage").await.body["stored_bytes"].as_i64().unwrap();
    limit(json!({ "max_stored_bytes": stored, "max_active_jobs": null })).await;
    let before = service.contents().await;
    let photo = service.upload("/v1/concepts/rex/images", vec![("a.png", png(64, 48, 99))]).await;
    assert_eq!(photo.problem().1, "quota_exceeded");
    assert_eq!(service.upload_image(png(64, 64, 98)).await.problem().1, "quota_exceeded");
    assert_eq!(start().await.problem().1, "quota_exceeded", "a result would need room");
    assert_eq!(service.contents().await, before, "no object stays behind");
    assert_eq!(service.get("/v1/usage").await.body["stored_bytes"], stored);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn who_has_changed_what_is_written_down(db: PgPool) {
    let service = keyed(db).await;
    let key = service.get("/v1/me").await.body["key"]["id"].clone();
    let body = json!({ "handle": "rex", "class_noun": "dog" });
    let made = service.post("/v1/concepts", body.clone()).await;
    let refused = service.post("/v1/concepts", body).await;
    service.get("/v1/concepts/rex").await;
    service.post("/v1/merges/check", json!({ "concepts": [] })).await;

    let entries = service.get("/v1/audit").await.body["data"].as_array().unwrap().clone();

    assert_eq!(refused.status, 409);
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(entries[0]["operation"], "POST /v1/concepts");
    assert_eq!(entries[0]["target"], made.header("location"));
    assert_eq!((&entries[0]["key"], &entries[0]["status"]), (&key, &json!(201)));
    assert_eq!(entries[0]["request_id"], made.header("x-request-id"));
    let (_, other) = service.project_with_key("other", EVERYTHING).await;
    assert_eq!(get(&service, "/v1/audit", |request| request.bearer_auth(&other)).await.status, 403);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn without_keys_only_this_machine_and_its_own_pages_may_call(db: PgPool) {
    let service = Service::start(db).await;
    let body = json!({ "handle": "rex", "class_noun": "dog" });
    let post = || service.request(Method::POST, "/v1/concepts").json(&body);

    let foreign = service.send(post().header("origin", "https://evil.example")).await;
    assert_eq!(foreign.problem(), (403, "origin_not_allowed", vec![]));
    let form = service.request(Method::POST, "/v1/images").header("origin", "null");
    assert_eq!(service.send(form).await.problem(), (403, "origin_not_allowed", vec![]));
    let rebound = service.send(post().header("host", "evil.example")).await;
    assert_eq!(rebound.problem(), (421, "unknown_host", vec![]));
    let read =
        get(&service, "/v1/concepts", |request| request.header("host", "evil.example")).await;
    assert_eq!(read.status, 421);
    assert_eq!(get(&service, "/livez", |request| request.header("host", "any")).await.status, 200);
    let own = service.address().to_owned();
    assert_eq!(service.send(post().header("origin", own)).await.status, 201);
    let me = service.get("/v1/me").await;
    assert_eq!((&me.body["key"], me.body["scopes"].as_array().unwrap().len()), (&Value::Null, 7));
    let key = service.post("/v1/api-keys", json!({ "name": "a", "scopes": ["read"] })).await;
    assert_eq!(key.problem(), (409, "keys_not_in_use", vec![""]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_page_of_an_allowed_origin_reads_answers_and_errors(db: PgPool) {
    let origin = "https://shop.example";
    let doors = Doors { cors_origins: vec![origin.to_owned()], ..Doors::default() };
    let rates = Rates { reads_per_minute: 1, writes_per_minute: 0 };
    let service = Service::start(db).await.asking_for_keys(rates, doors).await;
    let document: Value = serde_json::from_str(&vstar::http::openapi().to_json().unwrap()).unwrap();
    for path in document["paths"].as_object().unwrap().keys() {
        let preflight = service
            .request_without_key(Method::OPTIONS, &path.replace(['{', '}'], ""))
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type,idempotency-key");
        let answer = service.send(preflight).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), origin, "{path}");
        assert!(answer.header("access-control-allow-headers").contains("idempotency-key"));
    }
    let page = |request: RequestBuilder| request.header("origin", origin);
    service.get("/v1/concepts").await;
    for (answer, status) in [
        (get(&service, "/v1/concepts", page).await, 401),
        (get(&service, "/nothing", page).await, 404),
        (service.send(page(service.request(Method::GET, "/v1/concepts"))).await, 429),
        (
            service
                .send(
                    page(service.request(Method::POST, "/v1/concepts")).json(&"x".repeat(2 << 20)),
                )
                .await,
            413,
        ),
    ] {
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), origin, "{status}");
        assert!(answer.header("access-control-expose-headers").contains("retry-after"));
    }
    let evil = get(&service, "/livez", |request| request.header("origin", "https://evil.example"));
    assert_eq!(evil.await.header("access-control-allow-origin"), "");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn requests_too_many_are_turned_away_and_health_is_not(db: PgPool) {
    let doors = Doors { max_requests: 1, ..Doors::default() };
    let service = Service::start(db).await.asking_for_keys(Rates::default(), doors).await;
    let training = {
        service.concept_with_photos("rex", 4).await;
        service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await.text("id")
    };
    // A request that waits has the only place.
    let waiting =
        service.request(Method::GET, &format!("/v1/trainings/{training}?wait=3&after_revision=99"));
    let waiting = tokio::spawn(waiting.send());
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;

    let refused = service.get("/v1/concepts").await;
    let health = service.get("/livez").await;

    assert_eq!(refused.problem(), (503, "overloaded", vec![]));
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(health.status, 200);
    waiting.await.unwrap().unwrap();
    assert_eq!(service.get("/v1/concepts").await.status, 200);
}
