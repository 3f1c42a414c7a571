//! The door for frontends that speak OpenAI's images API.

use std::time::Duration;

use data_encoding::BASE64;
use futures::FutureExt;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::end_to_end::Whole;
use crate::harness::{Answer, DIGEST, Service, png};

/// The status, the type, the field and the code of an error in that API's form.
fn error(answer: &Answer) -> (u16, &str, Option<&str>, &str) {
    assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
    let error = &answer.body["error"];
    assert!(!error["message"].as_str().unwrap_or_default().is_empty(), "{answer:?}");
    assert_eq!(answer.body.as_object().unwrap().len(), 1, "{answer:?}");
    (
        answer.status,
        error["type"].as_str().unwrap(),
        error["param"].as_str(),
        error["code"].as_str().unwrap(),
    )
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn images_are_generated_and_edited_as_samples(db: PgPool) {
    let whole = Whole::start(db).await;
    let service = &whole.service;
    let body = json!({
        "prompt": "photo of a dog", "n": 2, "size": "64x64", "user": "somebody", "quality": "hd", "style": "vivid",
        "seed": 3, "num_inference_steps": 2,
    });

    let bytes = service.post("/openai/v1/images/generations", body.clone()).await;

    assert_eq!(bytes.status, 200, "{bytes:?}");
    assert_eq!(
        (&bytes.body["size"], &bytes.body["output_format"]),
        (&json!("64x64"), &json!("png"))
    );
    let data = bytes.body["data"].as_array().unwrap();
    let pngs: Vec<Vec<u8>> = data
        .iter()
        .map(|image| BASE64.decode(image["b64_json"].as_str().unwrap().as_bytes()).unwrap())
        .collect();
    assert_eq!(pngs.len(), 2);
    assert!(pngs.iter().all(|png| png.starts_with(b"\x89PNG")));
    // The same sample as any other.
    let sample = service.get(&format!("/v1/samples/{}", bytes.text("sample"))).await;
    assert_eq!((sample.text("status").as_str(), &sample.body["n"]), ("succeeded", &json!(2)));
    assert_eq!(sample.body["warnings"], bytes.body["warnings"]);

    let mut by_url = body;
    by_url["response_format"] = json!("url");
    let urls = service.post("/openai/v1/images/generations", by_url).await;
    let url = urls.body["data"][0]["url"].as_str().unwrap();
    assert!(url.starts_with(service.address()), "{url}");
    let image = reqwest::get(url).await.unwrap();
    assert_eq!(image.bytes().await.unwrap(), pngs[0], "the same seed gives the same image");

    let form = Form::new()
        .part("image[]", Part::bytes(png(64, 64, 7)).file_name("a.png"))
        .text("prompt", "photo of a dog")
        .text("n", "1")
        .text("num_inference_steps", "4")
        .text("noise_strength", "0.5")
        .text("response_format", "b64_json");
    let edit = service.request(reqwest::Method::POST, "/openai/v1/images/edits").multipart(form);
    let edit = service.send(edit).await;
    assert_eq!(edit.status, 200, "{edit:?}");
    let sample = service.get(&format!("/v1/samples/{}", edit.text("sample"))).await;
    assert_eq!(sample.body["noise_strength"], 0.5);
    assert!(sample.body["init_image"].is_string(), "{sample:?}");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_refusal_has_that_apis_form(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 4).await;
    let generate = async |body: Value| service.post("/openai/v1/images/generations", body).await;
    let before = service.contents().await;

    for (body, status, param, code) in [
        (json!({}), 400, Some("prompt"), "missing_field"),
        (json!({ "prompt": "a <nobody> dog" }), 400, Some("prompt"), "unknown_concept"),
        (json!({ "prompt": "a <rex> dog" }), 400, Some("prompt"), "concept_not_trained"),
        (json!({ "prompt": "a dog", "size": "large" }), 400, Some("size"), "invalid_value"),
        (json!({ "prompt": "a dog", "size": "63x64" }), 400, Some("size"), "not_a_multiple"),
        (json!({ "prompt": "a dog", "n": 17 }), 400, Some("n"), "out_of_range"),
        (json!({ "prompt": "a dog", "model": "dall-e-3" }), 404, Some("model"), "model_not_found"),
        (json!({ "prompt": "a dog", "stream": true }), 400, Some("stream"), "not_applicable"),
        (
            json!({ "prompt": "a dog", "output_format": "webp" }),
            400,
            Some("output_format"),
            "invalid_value",
        ),
        (
            json!({ "prompt": "a dog", "background": "transparent" }),
            400,
            Some("background"),
            "invalid_value",
        ),
        (json!({ "prompt": "a dog", "cfg": 7 }), 400, Some("cfg"), "unknown_field"),
        (
            json!({ "prompt": "a dog", "noise_strength": 0.5 }),
            400,
            Some("noise_strength"),
            "not_applicable",
        ),
    ] {
        let answer = generate(body.clone()).await;
        assert_eq!(error(&answer), (status, "invalid_request_error", param, code), "{body}");
        assert_eq!(answer.header("x-should-retry"), "false", "{body}");
    }
    let malformed = service.request(reqwest::Method::POST, "/openai/v1/images/generations");
    let malformed =
        service.send(malformed.header("content-type", "application/json").body("{")).await;
    assert_eq!(error(&malformed), (400, "invalid_request_error", None, "malformed_body"));
    let variations = service.post("/openai/v1/images/variations", json!({})).await;
    assert_eq!(error(&variations), (404, "invalid_request_error", None, "no_such_path"));
    let method = service.get("/openai/v1/images/generations").await;
    assert_eq!(error(&method), (405, "invalid_request_error", None, "method_not_allowed"));
    let model = service.get("/openai/v1/models/dlt_00000000000000000000000000").await;
    assert_eq!(error(&model), (404, "invalid_request_error", Some("model"), "model_not_found"));

    let image = || Part::bytes(png(64, 64, 7)).file_name("a.png");
    for (form, param, code) in [
        (Form::new().text("prompt", "a dog"), "image", "missing_field"),
        (Form::new().part("image", image()), "prompt", "missing_field"),
        (
            Form::new().text("prompt", "a dog").part("image", image()).part("mask", image()),
            "mask",
            "not_applicable",
        ),
        (
            Form::new().text("prompt", "a dog").part("image", image()).part("image", image()),
            "image",
            "too_many_images",
        ),
        (
            Form::new().text("prompt", "a dog").part("image", image()).text("n", "two"),
            "n",
            "invalid_value",
        ),
        (
            Form::new()
                .text("prompt", "a dog")
                .part("image", Part::bytes(b"no".to_vec()).file_name("a.png")),
            "image",
            "image_unreadable",
        ),
    ] {
        let request = service.request(reqwest::Method::POST, "/openai/v1/images/edits");
        let answer = service.send(request.multipart(form)).await;
        assert_eq!(error(&answer), (400, "invalid_request_error", Some(param), code), "{answer:?}");
    }
    let form = Form::new().text("prompt", "a <nobody> dog").part("image", image());
    let request = service.request(reqwest::Method::POST, "/openai/v1/images/edits");
    let answer = service.send(request.multipart(form)).await;
    assert_eq!(
        error(&answer),
        (400, "invalid_request_error", Some("prompt"), "unknown_concept"),
        "{answer:?}"
    );
    assert_eq!(service.contents().await, before, "nothing was made");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn models_are_the_base_model_the_trained_concepts_and_the_deltas(db: PgPool) {
    let service = Service::start(db).await;
    let (id, delta) = service.trained_concept("rex", DIGEST).await;
    service.concept_with_photos("max", 4).await;

    let list = service.get("/openai/v1/models").await;

    let ids: Vec<&str> = list.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    let base = service.get("/v1/capabilities").await.body["base_model"]["name"].clone();
    assert_eq!(ids, [base.as_str().unwrap_or("tiny"), "rex", &delta], "{list:?}");
    assert_eq!(list.body["data"][2]["names"], json!(["<rex> dog"]));
    for name in ["rex", &id, &delta] {
        let model = service.get(&format!("/openai/v1/models/{name}")).await;
        assert_eq!((model.status, &model.body["object"]), (200, &json!("model")), "{name}");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_client_that_hangs_up_cancels_its_sample(db: PgPool) {
    let service = Service::start(db).await; // without a worker: it would wait for long
    let request = service
        .request(reqwest::Method::POST, "/openai/v1/images/generations")
        .json(&json!({ "prompt": "a dog", "model": null }))
        .timeout(Duration::from_millis(500));

    assert!(request.send().await.unwrap_err().is_timeout());

    let began = std::time::Instant::now();
    loop {
        let list = service.get("/v1/samples").await;
        if list.body["data"][0]["status"] == "canceled" {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{list:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_url_of_an_image_shows_it_alone_and_for_an_hour(db: PgPool) {
    let whole = Whole::start(db).await.asking_for_keys().await;
    let service = &whole.service;
    let (_, key) = service.project_with_key("shop", &["samples:write"]).await;
    let body = json!({
        "prompt": "a dog", "n": 2, "size": "64x64", "num_inference_steps": 2, "response_format": "url",
    });
    let request = service.request_without_key(Method::POST, "/openai/v1/images/generations");
    let drawn = service.send(request.bearer_auth(&key).json(&body)).await;
    assert_eq!(drawn.status, 200, "{drawn:?}");
    let urls: Vec<&str> = drawn.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["url"].as_str().unwrap())
        .collect();

    let get = async |url: &str| {
        let path = url.strip_prefix(service.address()).unwrap();
        service.send(service.request_without_key(Method::GET, path)).await
    };
    for url in &urls {
        let image = get(url).await;
        assert_eq!((image.status, image.header("content-type")), (200, "image/png"), "{url}");
        assert_eq!(get(&format!("{url}&w=64")).await.header("content-type"), "image/webp");
        // Clients that send their key with every request, or a name and password for a proxy.
        let path = url.strip_prefix(service.address()).unwrap();
        let request = || service.request_without_key(Method::GET, path);
        assert_eq!(service.send(request().bearer_auth(&key)).await.status, 200);
        assert_eq!(service.send(request().basic_auth("proxy", Some("word"))).await.status, 200);
    }
    let (path, token) = urls[0].split_once("?token=").unwrap();
    let (other, _) = urls[1].split_once('?').unwrap();
    assert_eq!(get(path).await.status, 401, "the address alone shows nothing");
    assert_eq!(get(&format!("{other}?token={token}")).await.problem().1, "missing_scope");
    let image = path.strip_suffix("/content").unwrap();
    for (method, path) in [
        (Method::GET, image.to_owned()),
        (Method::DELETE, image.to_owned()),
        (Method::GET, format!("{image}/manifest")),
        (Method::GET, format!("{}/v1/samples", service.address())),
    ] {
        let path = format!("{}?token={token}", path.strip_prefix(service.address()).unwrap());
        let answer = service.send(service.request_without_key(method.clone(), &path)).await;
        assert_eq!(answer.status, 403, "{method} {path}");
    }
    let claims = token.strip_prefix("vstarct_").unwrap().split_once('.').unwrap().0;
    let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let lasts = claims["exp"].as_i64().unwrap() - chrono::Utc::now().timestamp();
    assert!((3500..=3600).contains(&lasts), "{claims}");

    // It dies with the key.
    let keys = service.get("/v1/api-keys").await;
    let of_shop = keys.body["data"].as_array().unwrap().iter().find(|key| key["name"] == "shop");
    let path = format!("/v1/api-keys/{}", of_shop.unwrap()["id"].as_str().unwrap());
    assert_eq!(service.send(service.request(Method::DELETE, &path)).await.status, 200);
    assert_eq!(get(urls[0]).await.status, 401);
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_request_with_a_key_draws_once(db: PgPool) {
    let whole = Whole::start(db).await;
    let service = &whole.service;
    let generate = async |key: &str, body: &Value| {
        let request = service.request(Method::POST, "/openai/v1/images/generations");
        service.send(request.header("idempotency-key", key).json(body)).await
    };
    let edit = async |key: &str, format: &str| {
        let form = Form::new()
            .part("image", Part::bytes(png(64, 64, 7)).file_name("a.png"))
            .text("prompt", "a dog")
            .text("num_inference_steps", "2")
            .text("response_format", format.to_owned());
        let request = service.request(Method::POST, "/openai/v1/images/edits");
        service.send(request.header("idempotency-key", key).multipart(form)).await
    };
    let body = json!({ "prompt": "a dog", "num_inference_steps": 2 });

    let (first, again) = (generate("1", &body).await, generate("1", &body).await);
    assert_eq!((first.status, again.status), (200, 200), "{again:?}");
    assert_eq!((first.body, again.header("idempotency-replayed")), (again.body.clone(), "true"));
    let other = generate("1", &json!({ "prompt": "a cat" })).await;
    assert_eq!(error(&other), (400, "invalid_request_error", None, "idempotency_key_reused"));

    let (first, again) = (edit("2", "url").await, edit("2", "url").await);
    assert_eq!((first.status, again.status), (200, 200), "{again:?}");
    assert_eq!((first.body, again.header("idempotency-replayed")), (again.body.clone(), "true"));
    assert!(again.body["data"][0]["url"].is_string(), "{again:?}");
    assert_eq!(error(&edit("2", "b64_json").await).3, "idempotency_key_reused");

    let samples = service.get("/v1/samples").await;
    assert_eq!(samples.body["data"].as_array().unwrap().len(), 2, "{samples:?}");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_edit_that_was_slower_than_another_with_its_key_is_answered_in_its_format(db: PgPool) {
    let whole = Whole::start(db.clone()).await;
    let service = &whole.service;
    let edit = async |prompt: Part| {
        let form = Form::new()
            .part("image", Part::bytes(png(64, 64, 7)).file_name("a.png"))
            .text("num_inference_steps", "2")
            .text("response_format", "url")
            .part("prompt", prompt);
        let request = service.request(Method::POST, "/openai/v1/images/edits");
        service.send(request.header("idempotency-key", "7").multipart(form)).await
    };
    let first = edit(Part::text("a dog")).await;
    assert_eq!(first.status, 200, "{first:?}");

    // A process that began before it was made finds the key free, and then taken.
    let rename = async |from: &str, to: &str| {
        let rename = sqlx::query("update idempotency_key set key = $2 where key = $1");
        assert_eq!(rename.bind(from).bind(to).execute(&db).await.unwrap().rows_affected(), 1);
    };
    rename("7", "hidden").await;
    let (send_rest, rest) = tokio::sync::oneshot::channel::<&str>();
    let slow = edit(Part::stream(reqwest::Body::wrap_stream(rest.into_stream())));
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        rename("hidden", "7").await;
        send_rest.send("a dog").unwrap();
    };
    let (slow, ()) = tokio::join!(slow, meanwhile);

    assert_eq!((slow.status, slow.header("idempotency-replayed")), (200, "true"), "{slow:?}");
    assert_eq!(slow.text("sample"), first.text("sample"));
    assert!(slow.body["data"][0]["url"].is_string(), "{slow:?}");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_client_that_hangs_up_may_ask_again_with_its_key(db: PgPool) {
    let mut whole = Whole::start(db).await;
    whole.kill_worker().await;
    let generate = |service: &Service| {
        let body = json!({ "prompt": "a dog", "num_inference_steps": 2 });
        let request = service.request(Method::POST, "/openai/v1/images/generations");
        request.header("idempotency-key", "order 7").json(&body)
    };
    let early = generate(&whole.service).timeout(Duration::from_millis(500)).send().await;
    assert!(early.unwrap_err().is_timeout());

    whole.start_worker(vstar::worker::WorkerConfig::default());
    let answer = whole.service.send(generate(&whole.service)).await;

    assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, "true"), "{answer:?}");
    assert!(answer.body["data"][0]["b64_json"].is_string());
    let samples = whole.service.get("/v1/samples").await;
    assert_eq!(samples.body["data"].as_array().unwrap().len(), 1, "{samples:?}");
    whole.end().await;
}
