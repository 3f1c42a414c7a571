//! Samples as requests: how prompts find their concepts, and what is refused.

use std::time::Duration;

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::domain::job::Preview;

use crate::harness::{Answer, DIGEST, Service, lease, png};

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_prompt_finds_its_concept_by_its_modifier_token(db: PgPool) {
    let service = Service::start(db).await;
    let (_, delta) = service.trained_concept("rex", DIGEST).await;

    let sample =
        service.post("/v1/samples", json!({ "prompt": "photo of a <rex> dog", "n": 2 })).await;

    assert_eq!(sample.status, 202, "{sample:?}");
    assert_eq!(sample.body["deltas"], json!([{ "delta": delta, "strength": 1.0 }]));
    assert_eq!(sample.body["n"], 2);
    assert_eq!(sample.body["num_inference_steps"], 50);
    assert_eq!(sample.body["scheduler"], "ddim");
    assert_eq!(sample.body["width"], 64);
    assert!(sample.body["seed"].as_u64().is_some());
    assert_eq!(sample.body["images"], json!([]));
    assert_eq!(service.get(sample.header("location")).await.body, sample.body);
    assert_eq!(service.get("/v1/samples").await.body["data"][0]["id"], sample.body["id"]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_list_entry_fixes_delta_and_strength(db: PgPool) {
    let service = Service::start(db).await;
    let (id, first) = service.trained_concept("rex", DIGEST).await;

    let by_handle =
        json!({ "prompt": "<rex> dog", "concepts": [{ "concept": "rex", "strength": 0.5 }] });
    let by_id = json!({ "prompt": "a dog", "concepts": [{ "concept": id, "delta": first }] });
    let by_delta =
        json!({ "prompt": "<rex> dog", "concepts": [{ "delta": first, "strength": 0 }] });

    for (body, strength) in [(by_handle, 0.5), (by_id, 1.0), (by_delta, 0.0)] {
        let sample = service.post("/v1/samples", body).await;
        assert_eq!(sample.status, 202, "{sample:?}");
        assert_eq!(sample.body["deltas"], json!([{ "delta": first, "strength": strength }]));
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_prompt_without_concepts_is_the_base_model(db: PgPool) {
    let service = Service::start(db).await;

    let sample = service.post("/v1/samples", json!({ "prompt": "a dog, 3 < 4", "seed": 0 })).await;

    assert_eq!((sample.status, &sample.body["deltas"]), (202, &json!([])), "{sample:?}");
    assert_eq!(sample.body["seed"], 0);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_sample_that_cannot_be_drawn_changes_nothing(db: PgPool) {
    let service = Service::start(db).await;
    let (_, rex) = service.trained_concept("rex", DIGEST).await;
    let (_, other) = service.trained_concept("old", "another base model").await;
    service.concept_with_photos("new", 4).await;
    let image = service.upload_image(png(64, 96, 1)).await.text("id");
    let before = service.contents().await;

    let long = "a dog on the beach ".repeat(20);
    for (body, code, pointer) in [
        (json!({ "prompt": "a <nobody> dog" }), "unknown_concept", "/prompt"),
        (json!({ "prompt": "a <Rex> dog" }), "unknown_concept", "/prompt"),
        (
            json!({ "prompt": "a dog", "negative_prompt": "a <nobody> dog" }),
            "unknown_concept",
            "/negative_prompt",
        ),
        (json!({ "prompt": "a <new> dog" }), "concept_not_trained", "/prompt"),
        (
            json!({ "prompt": "a dog", "concepts": [{ "concept": "new" }] }),
            "concept_not_trained",
            "/concepts/0",
        ),
        (
            json!({ "prompt": "a dog", "concepts": [{ "concept": "nobody" }] }),
            "unknown_concept",
            "/concepts/0/concept",
        ),
        (json!({ "prompt": "a dog", "concepts": [{}] }), "missing_field", "/concepts/0"),
        (json!({ "prompt": "a <old> dog" }), "base_model_mismatch", "/prompt"),
        (
            json!({ "prompt": "a dog", "concepts": [{ "delta": other }] }),
            "base_model_mismatch",
            "/concepts/0",
        ),
        (
            json!({ "prompt": "a dog", "concepts": [{ "concept": "new", "delta": rex }] }),
            "delta_of_another_concept",
            "/concepts/0/delta",
        ),
        (
            json!({ "prompt": "a dog", "concepts": [{ "delta": "dlt_00000000000000000000000000" }] }),
            "unknown_delta",
            "/concepts/0/delta",
        ),
        (
            json!({ "prompt": "a dog", "concepts": [{ "concept": "rex", "strength": 3 }] }),
            "out_of_range",
            "/concepts/0/strength",
        ),
        (
            json!({ "prompt": "a dog", "concepts": [{ "concept": "rex" }, { "concept": "rex", "strength": 0.5 }] }),
            "ambiguous_strength",
            "/concepts/1",
        ),
        (json!({ "prompt": "a dog\0" }), "invalid_value", "/prompt"),
        (json!({ "prompt": "x".repeat(100_000) }), "prompt_too_long", "/prompt"),
        (json!({ "prompt": long }), "prompt_too_long", "/prompt"),
        (
            json!({ "prompt": "a dog", "negative_prompt": long }),
            "prompt_too_long",
            "/negative_prompt",
        ),
        (
            json!({ "prompt": "a dog", "num_inference_steps": 0 }),
            "out_of_range",
            "/num_inference_steps",
        ),
        (
            json!({ "prompt": "a dog", "num_inference_steps": 1001 }),
            "out_of_range",
            "/num_inference_steps",
        ),
        (json!({ "prompt": "a dog", "n": 0 }), "out_of_range", "/n"),
        (json!({ "prompt": "a dog", "n": 17 }), "out_of_range", "/n"),
        (json!({ "prompt": "a dog", "width": 63 }), "not_a_multiple", "/width"),
        (json!({ "prompt": "a dog", "height": 4096 }), "out_of_range", "/height"),
        (json!({ "prompt": "a dog", "guidance_scale": -1 }), "out_of_range", "/guidance_scale"),
        (json!({ "prompt": "a dog", "eta": 2 }), "out_of_range", "/eta"),
        (json!({ "prompt": "a dog", "first_index": 1_000_000 }), "out_of_range", "/first_index"),
        (json!({ "prompt": "a dog", "first_index": -1 }), "invalid_value", "/first_index"),
        (
            json!({ "prompt": "a dog", "unconditional_strength": 1.1 }),
            "out_of_range",
            "/unconditional_strength",
        ),
        (
            json!({ "prompt": "a <rex> dog", "negative_prompt": "<rex>", "unconditional_strength": 0 }),
            "conflicting_fields",
            "/unconditional_strength",
        ),
        (
            json!({ "prompt": "a dog", "guidance_interval": [-0.1, 1] }),
            "out_of_range",
            "/guidance_interval/0",
        ),
        (
            json!({ "prompt": "a dog", "guidance_interval": [0, 1.5] }),
            "out_of_range",
            "/guidance_interval/1",
        ),
        (
            json!({ "prompt": "a dog", "guidance_interval": [0.8, 0.2] }),
            "out_of_range",
            "/guidance_interval",
        ),
        (
            json!({ "prompt": "a dog", "guidance_interval": [0.8] }),
            "invalid_value",
            "/guidance_interval",
        ),
        (json!({ "prompt": "a dog", "determinism": "often" }), "invalid_value", "/determinism"),
        (json!({ "prompt": "a dog", "preview_every": 0 }), "out_of_range", "/preview_every"),
        (json!({ "prompt": "a dog", "noise_strength": 0.5 }), "missing_field", "/noise_strength"),
        (
            json!({ "prompt": "a dog", "init_image": image, "noise_strength": 0 }),
            "out_of_range",
            "/noise_strength",
        ),
        (
            json!({ "prompt": "a dog", "init_image": image, "noise_strength": 1.01 }),
            "out_of_range",
            "/noise_strength",
        ),
        (
            json!({ "prompt": "a dog", "init_image": image, "noise_strength": 0.2, "num_inference_steps": 4 }),
            "out_of_range",
            "/noise_strength",
        ),
        (
            json!({ "prompt": "a dog", "init_image": "img_00000000000000000000000000" }),
            "unknown_image",
            "/init_image",
        ),
        (json!({ "prompt": "a dog", "init_image": rex }), "invalid_value", "/init_image"),
        (
            json!({ "prompt": "a dog", "scheduler": "lcm", "num_inference_steps": 51 }),
            "out_of_range",
            "/num_inference_steps",
        ),
        (json!({ "prompt": "a dog", "scheduler": "magic" }), "invalid_value", "/scheduler"),
        (json!({ "prompt": "a dog", "cfg_scale": 7 }), "unknown_field", "/cfg_scale"),
        (json!({ "n": 1 }), "missing_field", "/prompt"),
    ] {
        let answer = service.post("/v1/samples", body.clone()).await;
        assert_eq!(answer.problem(), (422, code, vec![pointer]), "{body}");
    }
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_modifier_token_counts_as_one_token(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("a-very-long-name-of-a-dog", DIGEST).await;

    // 2 marks and 30 words are 32, the tiny model's limit; spelled out, the token alone would be a dozen.
    let prompt = format!("<a-very-long-name-of-a-dog>{}", " dog".repeat(29));
    let fits = service.post("/v1/samples", json!({ "prompt": prompt })).await;
    let over = service.post("/v1/samples", json!({ "prompt": format!("{prompt} dog") })).await;

    assert_eq!(fits.status, 202, "{fits:?}");
    assert_eq!(over.problem(), (422, "prompt_too_long", vec!["/prompt"]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_wait_that_runs_out_is_answered_like_no_wait(db: PgPool) {
    let service = Service::start(db).await;

    let request =
        service.request(reqwest::Method::POST, "/v1/samples").json(&json!({ "prompt": "a dog" }));
    let sample = service.send(request.header("prefer", "wait=1")).await;

    assert_eq!((sample.status, sample.text("status").as_str()), (202, "queued"), "{sample:?}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn numbers_are_taken_to_six_decimals_and_defaults_are_the_papers(db: PgPool) {
    let service = Service::start(db).await;

    let plain = service.post("/v1/samples", json!({ "prompt": "a dog" })).await;
    let body = json!({ "prompt": "a dog", "guidance_scale": 1.0 / 3.0, "guidance_interval": [0.1 + 0.2, 1] });
    let rounded = service.post("/v1/samples", body).await;

    assert_eq!(plain.body["unconditional_strength"], 1.0);
    assert_eq!(plain.body["guidance_interval"], json!([0.0, 1.0]));
    assert_eq!(plain.body["determinism"], "strict");
    assert_eq!((&plain.body["first_index"], &plain.body["init_image"]), (&json!(0), &json!(null)));
    assert_eq!(rounded.body["guidance_scale"], 0.333333);
    assert_eq!(rounded.body["guidance_interval"], json!([0.3, 1.0]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_sample_that_starts_from_an_image_has_its_size_if_the_model_draws_that_well(db: PgPool) {
    let service = Service::start(db).await;
    let upload = service.upload_image(png(89, 66, 1)).await;
    let large = service.upload_image(png(1024, 512, 1)).await;
    assert_eq!(upload.status, 201, "{upload:?}");
    assert_eq!(
        (&upload.body["file_name"], &upload.body["concept"]),
        (&json!("a.png"), &json!(null))
    );

    let own = json!({ "prompt": "a dog", "init_image": upload.text("id") });
    let own = service.post("/v1/samples", own).await;
    let asked = json!({ "prompt": "a dog", "init_image": upload.text("id"), "width": 40, "noise_strength": 0.5 });
    let asked = service.post("/v1/samples", asked).await;
    let shrunk = json!({ "prompt": "a dog", "init_image": large.text("id") });
    let shrunk = service.post("/v1/samples", shrunk).await;

    let size = |sample: &Answer| (sample.body["width"].clone(), sample.body["height"].clone());
    assert_eq!(size(&own), (json!(88), json!(68)), "{own:?}");
    assert_eq!(
        (&own.body["noise_strength"], &own.body["init_image"]),
        (&json!(0.8), &upload.body["id"])
    );
    assert_eq!(
        (size(&asked), &asked.body["noise_strength"]),
        ((json!(40), json!(68)), &json!(0.5))
    );
    assert_eq!(own.body["warnings"], json!([]));
    assert_eq!(size(&shrunk), (json!(92), json!(44)), "as many pixels as the model's own images");
    let warning = &shrunk.body["warnings"][0];
    assert_eq!(
        (&warning["code"], &warning["pointer"]),
        (&json!("init_image_resized"), &json!("/init_image"))
    );
    assert!(warning["detail"].as_str().unwrap().contains("1024×512"), "{warning}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_upload_that_is_no_image_changes_nothing(db: PgPool) {
    let service = Service::start(db).await;
    let before = service.contents().await;
    let post = |form: Form| {
        service.send(service.request(reqwest::Method::POST, "/v1/images").multipart(form))
    };
    let part = |bytes: Vec<u8>| Part::bytes(bytes).file_name("a.png");

    for (form, code, pointer) in [
        (Form::new().part("file", part(b"hello".to_vec())), "image_unreadable", "/file"),
        (Form::new().part("file", part(png(16, 64, 1))), "image_too_small", "/file"),
        (Form::new().part("photo", part(png(64, 64, 1))), "unknown_field", "/photo"),
        (
            Form::new().part("file", part(png(64, 64, 1))).part("file", part(png(64, 64, 2))),
            "too_many_images",
            "/file",
        ),
    ] {
        let answer = post(form).await;
        assert_eq!(answer.problem(), (422, code, vec![pointer]), "{answer:?}");
    }
    let json = service.post("/v1/images", json!({})).await;
    assert_eq!(json.problem().0, 415);
    assert_eq!(service.contents().await, before);
}

/// A manifest of the pretended base model.
fn manifest() -> Value {
    json!({
        "format": "vstar-manifest-1", "engine_version": "0.0.1", "precision": "f32",
        "base_model": DIGEST, "prompt": "a dog", "prompt_token_ids": [1, 2], "negative_prompt": "a cat",
        "negative_prompt_token_ids": [], "deltas": [], "merge": null, "seed": 7, "image_index": 3,
        "scheduler": "euler", "num_inference_steps": 20, "eta": 0.0, "guidance_scale": 4.0,
        "unconditional_strength": 0.5, "guidance_interval": [0.1, 0.9], "width": 48, "height": 64,
        "init_image": null, "reproducible": true,
    })
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_manifest_becomes_a_sample_of_its_one_image(db: PgPool) {
    let service = Service::start(db).await;
    let (_, delta) = service.trained_concept("rex", DIGEST).await;
    let image = service.upload_image(png(64, 64, 1)).await;
    let mut manifest = manifest();
    manifest["prompt"] = json!("a <rex> dog");
    manifest["deltas"] = json!([{ "sha256": "abc", "strength": 0.7 }]);
    manifest["init_image"] = json!({ "sha256": image.body["sha256"], "noise_strength": 0.6 });

    let sample = service.post("/v1/samples", json!({ "from_manifest": manifest })).await;

    assert_eq!(sample.status, 202, "{sample:?}");
    for (field, value) in [
        ("prompt", json!("a <rex> dog")),
        ("negative_prompt", json!("a cat")),
        ("n", json!(1)),
        ("first_index", json!(3)),
        ("seed", json!(7)),
        ("scheduler", json!("euler")),
        ("num_inference_steps", json!(20)),
        ("guidance_scale", json!(4.0)),
        ("unconditional_strength", json!(0.5)),
        ("guidance_interval", json!([0.1, 0.9])),
        ("width", json!(48)),
        ("height", json!(64)),
        ("determinism", json!("strict")),
        ("init_image", image.body["id"].clone()),
        ("noise_strength", json!(0.6)),
        ("deltas", json!([{ "delta": delta, "strength": 0.7 }])),
    ] {
        assert_eq!(sample.body[field], value, "{field}");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_manifest_that_cannot_be_drawn_here_is_refused_with_what_is_missing(db: PgPool) {
    let service = Service::start(db).await;
    let image = service.upload_image(png(64, 64, 1)).await;
    service.trained_concept("rex", DIGEST).await;

    for (field, value, code, pointer) in [
        ("base_model", json!("b".repeat(64)), "base_model_mismatch", "/base_model"),
        (
            "deltas",
            json!([{ "sha256": "no such", "strength": 1.0 }]),
            "unknown_delta",
            "/deltas/0/sha256",
        ),
        (
            "deltas",
            json!([{ "sha256": "abc", "strength": 2.5 }]),
            "out_of_range",
            "/deltas/0/strength",
        ),
        (
            "deltas",
            json!([{ "sha256": "abc", "strength": 1.0 }, { "sha256": "abc", "strength": 1.0 }]),
            "invalid_value",
            "/deltas/1/sha256",
        ),
        (
            "deltas",
            json!([{ "sha256": "\u{0}", "strength": 1.0 }]),
            "invalid_value",
            "/deltas/0/sha256",
        ),
        (
            "init_image",
            json!({ "sha256": "\u{0}", "noise_strength": 0.5 }),
            "invalid_value",
            "/init_image/sha256",
        ),
        (
            "init_image",
            json!({ "sha256": "no such", "noise_strength": 0.5 }),
            "unknown_image",
            "/init_image/sha256",
        ),
        (
            "init_image",
            json!({ "sha256": image.body["sha256"], "noise_strength": 0.01 }),
            "out_of_range",
            "/init_image/noise_strength",
        ),
        (
            "composition",
            json!({ "method": "regional", "redraw_strength": 1, "margin": 0, "enlarge": 1, "regions": [],
                "layout": { "kind": "nouns", "prompt": "a dog", "negative_prompt": "", "own_words": vec![0; 9] } }),
            "out_of_range",
            "/composition/layout/own_words",
        ),
        ("merge", json!({ "method": "hard", "protect": [] }), "not_applicable", "/merge"),
        ("prompt", json!("dog ".repeat(40)), "prompt_too_long", "/prompt"),
        ("image_index", json!(2_000_000), "out_of_range", "/image_index"),
        ("width", json!(50), "not_a_multiple", "/width"),
        ("num_inference_steps", json!(0), "out_of_range", "/num_inference_steps"),
        ("format", json!("vstar-manifest-9"), "invalid_value", "/format"),
        ("engine_version", json!(1), "invalid_value", "/engine_version"),
        ("colour", json!("red"), "unknown_field", "/colour"),
    ] {
        let mut manifest = manifest();
        manifest[field] = value;
        let answer = service.post("/v1/samples", json!({ "from_manifest": manifest })).await;
        let pointer = format!("/from_manifest{pointer}");
        assert_eq!(answer.problem(), (422, code, vec![pointer.as_str()]), "{answer:?}");
    }
    let (_, other) = service.trained_concept("ted", DIGEST).await;
    let id: vstar::domain::id::DeltaId = other.parse().unwrap();
    let other_digest = "update delta set sha256 = 'def' where delta_id = $1";
    sqlx::query(other_digest).bind(id.0).execute(&service.db).await.unwrap();
    let before = service.contents().await;
    for (merge, code, pointer) in [
        (json!(null), "missing_field", "/merge"),
        (
            json!({ "method": "soft", "constraint_weight": 1e12, "protect": [] }),
            "out_of_range",
            "/merge/constraint_weight",
        ),
        (
            json!({ "method": "hard", "captions": ["a dog"], "protect": [] }),
            "out_of_range",
            "/merge/captions",
        ),
    ] {
        let mut manifest = manifest();
        manifest["deltas"] =
            json!([{ "sha256": "abc", "strength": 1 }, { "sha256": "def", "strength": 1 }]);
        manifest["merge"] = merge;
        let answer = service.post("/v1/samples", json!({ "from_manifest": manifest })).await;
        let pointer = format!("/from_manifest{pointer}");
        assert_eq!(answer.problem(), (422, code, vec![pointer.as_str()]), "{answer:?}");
    }
    for field in ["prompt", "negative_prompt", "scheduler", "determinism"] {
        let mut body = json!({ "from_manifest": manifest() });
        body[field] = json!(match field {
            "scheduler" => "ddim",
            _ => "strict",
        });
        let answer = service.post("/v1/samples", body).await;
        let pointer = format!("/{field}");
        assert_eq!(answer.problem(), (422, "conflicting_fields", vec![pointer.as_str()]));
    }
    let all = json!({
        "from_manifest": manifest(), "n": 1, "first_index": 0, "seed": 1, "num_inference_steps": 1, "eta": 0,
        "guidance_scale": 1, "unconditional_strength": 1, "guidance_interval": [0, 1], "width": 64, "height": 64,
        "init_image": image.text("id"), "noise_strength": 1, "preview_every": 1, "concepts": [],
    });
    let answer = service.post("/v1/samples", all.clone()).await;
    assert_eq!(answer.problem().2.len(), all.as_object().unwrap().len() - 1, "{answer:?}");
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn uploads_have_no_manifest(db: PgPool) {
    let service = Service::start(db).await;
    let image = service.upload_image(png(64, 64, 1)).await.text("id");

    let known = service.get(&format!("/v1/images/{image}")).await;
    let upload = service.get(&format!("/v1/images/{image}/manifest")).await;
    let nothing = service.get("/v1/images/img_00000000000000000000000000/manifest").await;

    assert_eq!(known.status, 200);
    assert_eq!((upload.problem().0, nothing.problem().0), (404, 404));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn previews_are_the_newest_and_end_with_their_sample(db: PgPool) {
    let service = Service::start(db).await;
    let body = json!({ "prompt": "a dog", "n": 2, "first_index": 4, "preview_every": 10 });
    let sample = service.post("/v1/samples", body).await;
    let path = sample.header("location").to_owned();
    let leased = lease(&service.db, "test", Duration::from_secs(60)).await.unwrap();
    let preview = |index, step, shade| Preview { index, step, png: png(16, 16, shade) };
    let keep = async |fence, previews: &[Preview]| {
        vstar::db::preview::record(&service.db, leased.job_id, fence, previews).await.unwrap();
    };

    assert_eq!(service.get(&format!("{path}/previews/4")).await.problem().0, 404);
    keep(leased.fence, &[preview(4, 10, 1), preview(5, 10, 2)]).await;
    keep(leased.fence, &[preview(4, 20, 3)]).await;
    keep(leased.fence - 1, &[preview(4, 30, 4)]).await;

    let newest = service.get(&format!("{path}/previews/4")).await;
    assert_eq!(newest.header("content-type"), "image/png");
    assert_eq!(newest.bytes, png(16, 16, 3));
    assert_eq!(service.get(&format!("{path}/previews/5")).await.bytes, png(16, 16, 2));
    vstar::db::job::succeed(&service.db, leased.job_id, leased.fence).await.unwrap();
    assert_eq!(service.get(&format!("{path}/previews/4")).await.problem().0, 404);
    let left: i64 = sqlx::query_scalar("select count(*) from sample_preview")
        .fetch_one(&service.db)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn capabilities_say_what_a_sample_can_ask_for(db: PgPool) {
    let service = Service::start(db).await;

    let body = service.get("/v1/capabilities").await.body;

    let schedulers = body["schedulers"].as_array().unwrap();
    assert_eq!(schedulers.len(), 9);
    for scheduler in schedulers {
        let most = scheduler["num_inference_steps_max"].as_u64().unwrap();
        let ask = |steps| json!({ "prompt": "a dog", "scheduler": scheduler["name"], "num_inference_steps": steps });
        assert_eq!(service.post("/v1/samples", ask(most)).await.status, 202, "{scheduler}");
        assert_eq!(service.post("/v1/samples", ask(most + 1)).await.status, 422, "{scheduler}");
    }
    let defaults = service.post("/v1/samples", json!({ "prompt": "a dog" })).await;
    for (field, value) in body["sampling_defaults"].as_object().unwrap() {
        if !["strength", "noise_strength"].contains(&field.as_str()) {
            assert_eq!(defaults.body[field], *value, "{field}");
        }
    }
    for (field, range) in body["sampling_ranges"].as_object().unwrap() {
        assert!(range[0].as_f64() <= range[1].as_f64(), "{field}");
        if !["num_inference_steps", "guidance_interval", "strength", "noise_strength"]
            .contains(&field.as_str())
        {
            let ask = |value: &Value| json!({ "prompt": "a dog", field: value });
            assert_eq!(service.post("/v1/samples", ask(&range[0])).await.status, 202, "{field}");
            assert_eq!(service.post("/v1/samples", ask(&range[1])).await.status, 202, "{field}");
        }
    }
}
