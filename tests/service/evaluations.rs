//! Evaluations: samples of their own, figures of their images, and what a request can tell.

use std::time::Duration;

use image::RgbImage;
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::domain::evaluation::report::EvaluationReport;
use vstar::domain::id::{EvaluationId, JobId, SampleId};
use vstar::domain::job::JobKind;
use vstar::storage::StorageKey;

use crate::end_to_end::Whole;
use crate::harness::{DIGEST, Service, any_task, evaluator, lease, lease_of, png};

/// A service with an evaluator and no worker, and a concept `rex` that is trained.
async fn service(db: PgPool) -> Service {
    let service = Service::with_evaluator(db).await;
    service.trained_concept("rex", DIGEST).await;
    service
}

/// Two subjects, two prompts, five images each, two steps.
fn small(subject: Value) -> Value {
    json!({
        "subjects": [{ "base": true }, subject],
        "prompts": ["photo of a {} on the beach", "photo of a {} in the snow", "photo of a tree"],
        "images_per_prompt": 5, "num_inference_steps": 2, "guidance_scale": 2.0, "seed": 3,
    })
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_evaluation_scores_the_images_of_its_samples(db: PgPool) {
    let whole = Whole::start_with_evaluator(db).await;
    whole.concept("dog", Some("<rex>")).await;
    let training = whole.train(json!(["dog"])).await;
    let changes = training.body["report"]["weight_change"].as_array().unwrap();
    assert!(changes.iter().all(|one| one["change"].as_f64().unwrap() > 0.0), "{changes:?}");
    assert_eq!(training.body["report"]["token_change"][0]["modifier_token"], "<rex>");

    let sets = whole.service.get("/v1/image-sets").await;
    let set = sets.body["data"][0]["id"].clone();
    let mut body = small(json!({ "concepts": [{ "concept": "dog" }] }));
    body["held_out"] = json!({ "set": set, "subset_size": 1000 });
    let refused = whole.service.post("/v1/evaluations", body.clone()).await;
    assert_eq!(refused.problem(), (422, "dataset_too_small", vec!["/held_out/subset_size"]));
    body["held_out"] = json!({ "set": set, "subset_size": 4 });

    let evaluation = whole.run("/v1/evaluations", body).await;

    assert_eq!(evaluation.text("status"), "succeeded", "{evaluation:?}");
    let report: EvaluationReport =
        serde_json::from_value(evaluation.body["report"].clone()).unwrap();
    assert_eq!(report.subjects.len(), 2);
    assert_eq!(report.subjects[1].prompts[0].prompt, "photo of a <rex> dog on the beach");
    assert_eq!(report.subjects[0].prompts[0].prompt, "photo of a dog on the beach");
    assert_eq!((report.subjects[1].image_alignment.n, report.subjects[1].leak.n), (10, 5));
    assert!(report.subjects[1].image_alignment.interval.is_some());
    assert!(report.photos[0].alignment.mean.is_some());
    let kid = report.subjects[1].kid.as_ref().unwrap();
    assert_eq!((kid.named.subset_size, kid.unnamed.subset_size), (4, 4));
    assert!(kid.named.value.is_some() && kid.unnamed.std.is_some(), "{kid:?}");

    // The figures are those of the very images, which are ordinary samples.
    let samples = whole.service.get("/v1/samples?limit=100").await;
    let mut images = Vec::new();
    for sample in samples.body["data"].as_array().unwrap() {
        if sample["prompt"] == "photo of a <rex> dog on the beach" {
            for image in sample["images"].as_array().unwrap() {
                let png = whole.service.get(image["url"].as_str().unwrap()).await.bytes;
                images.push((image["index"].as_i64(), decode(&png)));
            }
        }
    }
    images.sort_by_key(|(index, _)| *index);
    let images: Vec<RgbImage> = images.into_iter().map(|(_, image)| image).collect();
    assert_eq!(images.len(), 5);
    let text = evaluator().text_features(&["photo of a dog on the beach"]).unwrap();
    let features = evaluator().image_features(&images).unwrap();
    let cosine = |image: &[f32]| -> f64 {
        image.iter().zip(text.row(0)).map(|(a, b)| f64::from(a * b)).sum()
    };
    let mean = features.rows().map(cosine).sum::<f64>() / 5.0;
    let told = report.subjects[1].prompts[0].text_alignment.mean.unwrap();
    assert!((mean - told).abs() < 1e-5, "{mean} {told}");

    // Sheet and plots.
    let files = &evaluation.body["files"];
    let sheet = whole.service.get(files["sheet"].as_str().unwrap()).await;
    assert_eq!(sheet.header("content-type"), "image/png");
    assert!(decode(&sheet.bytes).height() > 300);
    for plot in ["alignment", "loss"] {
        let svg = whole.service.get(files[plot].as_str().unwrap()).await;
        assert_eq!(svg.header("content-type"), "image/svg+xml");
        let text = String::from_utf8(svg.bytes).unwrap();
        assert!(text.starts_with("<svg") && !text.contains("NaN"), "{text}");
    }
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn each_thing_of_a_composition_is_scored_in_its_own_part(db: PgPool) {
    let whole = Whole::start_with_evaluator(db).await;
    for (handle, token) in [("dog", "<rex>"), ("cat", "<tom>")] {
        whole.concept(handle, Some(token)).await;
        whole.train(json!([handle])).await;
    }
    let concepts = json!([{ "concept": "dog" }, { "concept": "cat" }]);
    let evaluation = whole
        .run(
            "/v1/evaluations",
            json!({
                "subjects": [{ "concepts": concepts, "composition": { "method": "tokens" } }],
                "concepts": ["dog", "cat"],
                "prompts": [
                    "a <tom> cat next to a <rex> dog",
                    { "text": "a <rex> dog and a cake", "things": 2 },
                    "a <rex> dog",
                ],
                "images_per_prompt": 3, "num_inference_steps": 2, "guidance_scale": 2.0, "seed": 3,
            }),
        )
        .await;
    assert_eq!(evaluation.text("status"), "succeeded", "{evaluation:?}");
    assert_eq!(evaluation.body["subjects"][0]["composition"], "tokens");
    let report: EvaluationReport =
        serde_json::from_value(evaluation.body["report"].clone()).unwrap();
    let prompts = &report.subjects[0].prompts;

    // By hand, on the images that the evaluation lists: cat and dog, each in its half, handed out the better way.
    let listed = whole
        .service
        .get(&format!("/v1/evaluations/{}/samples?limit=100", evaluation.text("id")))
        .await;
    let mut halves = [Vec::new(), Vec::new()];
    for sample in listed.body["data"].as_array().unwrap() {
        for image in sample["images"].as_array().unwrap() {
            let png = decode(&whole.service.get(image["url"].as_str().unwrap()).await.bytes);
            if sample["prompt"] == "a <tom> cat next to a <rex> dog" {
                let (side, top) = (png.width() / 2, png.height() / 4);
                for (place, half) in halves.iter_mut().enumerate() {
                    let left = place as u32 * side;
                    half.push(image::imageops::crop_imm(&png, left, top, side, side).to_image());
                }
            }
        }
    }
    assert_eq!((listed.body["data"].as_array().unwrap().len(), halves[0].len()), (3, 3));
    let mut fits = Vec::new();
    for handle in ["cat", "dog"] {
        let photos = whole.service.get(&format!("/v1/concepts/{handle}/images")).await;
        let mut images = Vec::new();
        for photo in photos.body["data"].as_array().unwrap() {
            images.push(decode(&whole.service.get(photo["url"].as_str().unwrap()).await.bytes));
        }
        let photos = evaluator().image_features(&images).unwrap();
        let fit = |half: &Vec<RgbImage>| {
            vstar::scoring::with_photos(&evaluator().image_features(half).unwrap(), &photos)
        };
        fits.push(halves.each_ref().map(fit));
    }
    let (mut cat, mut dog) = (0.0, 0.0);
    let (cats, dogs) = (&fits[0], &fits[1]);
    for image in 0..halves[0].len() {
        let ways = [(0, 1), (1, 0)].map(|(a, b)| (cats[a][image], dogs[b][image]));
        let better = usize::from(ways[1].0 + ways[1].1 > ways[0].0 + ways[0].1);
        cat += ways[better].0 / 3.0;
        dog += ways[better].1 / 3.0;
    }
    let composition = prompts[0].composition.as_ref().unwrap();
    let things: Vec<f64> = composition.things.iter().map(|thing| thing.mean.unwrap()).collect();
    assert!(
        (things[0] - cat).abs() < 1e-5 && (things[1] - dog).abs() < 1e-5,
        "{things:?} {cat} {dog}"
    );
    assert!(composition.leak.mean.is_some() && composition.all_present.n == 3);

    // Beside a plain thing there is one concept, and alone there is nothing to compose.
    let beside = prompts[1].composition.as_ref().unwrap();
    assert_eq!((beside.things.len(), beside.leak.mean), (1, None));
    assert!(prompts[2].composition.is_none());
    whole.end().await;
}

fn decode(png: &[u8]) -> RgbImage {
    image::load_from_memory(png).unwrap().to_rgb8()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_evaluation_waits_for_its_samples_and_tells_how_many_have_ended(db: PgPool) {
    let service = service(db.clone()).await;
    let started =
        service.post("/v1/evaluations", small(json!({ "concepts": [{ "concept": "rex" }] }))).await;
    assert_eq!(started.status, 202, "{started:?}");
    let path = started.header("location").to_owned();
    assert_eq!(
        started.body["progress"]["total_steps"], 12,
        "2 subjects × 3 prompts × (4 + 1 images)"
    );

    // A sample that somebody asks for goes first.
    let own = service.post("/v1/samples", json!({ "prompt": "photo of a dog" })).await;
    let waiting = lease_of(&db, JobKind::Evaluation, &evaluator().info().digest).await;
    assert!(waiting.is_none(), "its samples have not ended");
    let first = lease(&db, "test", Duration::from_secs(60)).await.unwrap();
    assert_eq!(first.job_id.0, own.text("id").parse::<SampleId>().unwrap().0);

    let mut ended = 0;
    while let Some(sample) = lease(&db, "test", Duration::from_secs(60)).await {
        assert!(vstar::db::job::succeed(&db, sample.job_id, sample.fence).await.unwrap());
        ended += 1;
        let evaluation = service.get(&path).await;
        assert_eq!(evaluation.body["progress"]["step"], ended);
    }

    assert_eq!(ended, 12);
    let leased = lease_of(&db, JobKind::Evaluation, &evaluator().info().digest).await.unwrap();
    assert_eq!(path, format!("/v1/evaluations/{}", EvaluationId::from(leased.job_id)));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn canceling_an_evaluation_cancels_its_samples(db: PgPool) {
    let service = service(db.clone()).await;
    let started =
        service.post("/v1/evaluations", small(json!({ "concepts": [{ "concept": "rex" }] }))).await;
    let running = lease(&db, "test", Duration::from_secs(60)).await.unwrap();

    let canceled = service.post(&format!("{}/cancel", started.header("location")), json!({})).await;

    assert_eq!((canceled.status, canceled.text("status").as_str()), (200, "canceled"));
    let samples = service.get("/v1/samples?limit=100").await;
    let statuses: Vec<&str> = samples.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == "canceled").count(), 11, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == "canceling").count(), 1, "{statuses:?}");
    assert!(vstar::db::job::stop(&db, running.job_id, running.fence).await.unwrap());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_evaluation_fails_with_the_reason_of_a_sample(db: PgPool) {
    let whole = Whole::start_with_evaluator(db).await;
    // Its delta's object is damaged.
    let digest = whole.service.get("/v1/capabilities").await.body["base_model"]["digest"].clone();
    let concept_id = whole.service.concept_with_photos("rex", 4).await;
    let job_id = JobId::generate();
    let key = StorageKey::stored(&format!("jobs/{job_id}/delta"));
    whole.service.storage.write(&key, "rubbish").await.unwrap();
    vstar::db::job::enqueue(
        &whole.service.db,
        vstar::db::job::NewJob::new(job_id, &any_task(), 1, 1.0),
    )
    .await
    .unwrap();
    let concept_id = concept_id.parse().unwrap();
    whole.service.record_delta(job_id, concept_id, digest.as_str().unwrap()).await;

    let evaluation =
        whole.run("/v1/evaluations", small(json!({ "concepts": [{ "concept": "rex" }] }))).await;

    assert_eq!(evaluation.text("status"), "failed", "{evaluation:?}");
    assert_eq!(evaluation.body["error"]["code"], "sample_failed", "{evaluation:?}");
    assert!(
        evaluation.body["error"]["detail"].as_str().unwrap().contains("smp_"),
        "{evaluation:?}"
    );
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_a_request_can_tell_is_told_before_anything_is_queued(db: PgPool) {
    let service = service(db).await;
    service.concept("bare", Some("<bare>"), "dog").await;
    let before = service.contents().await;
    let rex = || json!([{ "base": true }, { "concepts": [{ "concept": "rex" }] }]);
    let many = "dog ".repeat(80);
    for (body, code, pointer) in [
        (
            json!({ "subjects": [], "prompts": ["a"], "concepts": ["rex"] }),
            "out_of_range",
            "/subjects",
        ),
        (json!({ "subjects": rex() }), "missing_field", "/prompts"),
        (json!({ "subjects": [{}], "prompts": ["a"] }), "missing_field", "/subjects/0"),
        (json!({ "subjects": [{ "base": true }], "prompts": ["a"] }), "missing_field", "/concepts"),
        (
            json!({ "subjects": [{ "base": true }], "concepts": ["bare"], "prompts": ["a"] }),
            "dataset_too_small",
            "/concepts/0",
        ),
        (
            json!({ "subjects": [{ "base": true }], "concepts": ["none"], "prompts": ["a"] }),
            "unknown_concept",
            "/concepts/0",
        ),
        (
            json!({ "subjects": [{ "concepts": [{ "concept": "bare" }] }], "prompts": ["a"] }),
            "concept_not_trained",
            "/subjects/0/concepts/0",
        ),
        (
            json!({ "subjects": rex(), "concepts": ["bare"], "prompts": ["a"] }),
            "delta_of_another_concept",
            "/subjects/1/concepts",
        ),
        (json!({ "subjects": rex(), "prompts": ["{} and {}"] }), "invalid_value", "/prompts/0"),
        (json!({ "subjects": rex(), "prompts": ["a", "a"] }), "invalid_value", "/prompts/1"),
        (
            json!({ "subjects": rex(), "prompts": [{ "text": "a {}", "things": 5 }] }),
            "out_of_range",
            "/prompts/0/things",
        ),
        (
            json!({ "subjects": rex(), "prompts": [{ "text": "a <rex> and a <rex>", "things": 1 }] }),
            "out_of_range",
            "/prompts/0/things",
        ),
        (
            json!({ "subjects": [{ "base": true, "composition": { "method": "tokens" } }], "concepts": ["rex"], "prompts": ["a {}"] }),
            "not_applicable",
            "/subjects/0/composition",
        ),
        (
            json!({ "subjects": rex(), "prompts": ["a <bare> dog"] }),
            "unknown_concept",
            "/prompts/0",
        ),
        (json!({ "subjects": rex(), "prompts": [many] }), "prompt_too_long", "/prompts/0"),
        (json!({ "subjects": rex(), "prompts": ["a {}", "A  {}"] }), "invalid_value", "/prompts/1"),
        (
            json!({ "subjects": rex(), "prompts": ["a {}"], "negative_prompt": "<rex>" }),
            "unknown_concept", // the base model has the same negative prompt, and no such concept
            "/negative_prompt",
        ),
        (
            json!({ "subjects": [{ "base": true }], "concepts": ["rex"], "prompts": ["a <foo> dog"] }),
            "unknown_concept",
            "/prompts/0",
        ),
        (
            json!({ "subjects": rex(), "prompts": ["a"], "held_out": { "set": "\0" } }),
            "invalid_value",
            "/held_out/set",
        ),
        (
            json!({ "subjects": rex(), "prompts": ["a"], "images_per_prompt": 0 }),
            "out_of_range",
            "/images_per_prompt",
        ),
        (
            json!({ "subjects": rex(), "prompts": ["a"], "num_inference_steps": 0 }),
            "out_of_range",
            "/num_inference_steps",
        ),
        (
            json!({ "subjects": rex(), "prompts": ["a"], "held_out": { "set": "abc" } }),
            "unknown_image_set",
            "/held_out/set",
        ),
        (
            json!({ "subjects": [{ "name": "x", "base": true }, { "name": "x", "base": true }], "concepts": ["rex"], "prompts": ["a"] }),
            "invalid_value",
            "/subjects/1/name",
        ),
    ] {
        let answer = service.post("/v1/evaluations", body.clone()).await;

        assert_eq!(answer.problem(), (422, code, vec![pointer]), "{body}");
    }
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn without_an_evaluator_evaluations_are_refused(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;

    let answer =
        service.post("/v1/evaluations", small(json!({ "concepts": [{ "concept": "rex" }] }))).await;

    assert_eq!(answer.problem(), (422, "evaluator_missing", vec![""]));
    assert_eq!(service.get("/v1/capabilities").await.body["evaluator"], Value::Null);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn one_photo_has_no_baseline_and_one_image_no_interval(db: PgPool) {
    let whole = Whole::start_with_evaluator(db).await;
    whole.service.concept("rex", Some("<rex>"), "dog").await;
    let upload = vec![("a.png", png(64, 48, 7))];
    assert_eq!(whole.service.upload("/v1/concepts/rex/images", upload).await.status, 201);

    let evaluation = whole
        .run(
            "/v1/evaluations",
            json!({
                "subjects": [{ "base": true }], "concepts": ["rex"], "prompts": ["photo of a {}"],
                "images_per_prompt": 1, "num_inference_steps": 1, "seed": 1,
            }),
        )
        .await;

    assert_eq!(evaluation.text("status"), "succeeded", "{evaluation:?}");
    let report: EvaluationReport =
        serde_json::from_value(evaluation.body["report"].clone()).unwrap();
    let base = &report.subjects[0];
    assert_eq!((report.photos_alignment, report.photos[0].alignment.mean), (None, None));
    assert!(base.image_alignment.mean.is_some() && base.image_alignment.interval.is_none());
    for reason in
        [&report.photos[0].alignment, &base.image_alignment, &base.scene, &base.share, &base.leak]
    {
        assert!(reason.reason.is_some(), "{reason:?}");
    }
    let svg = whole.service.get(evaluation.body["files"]["alignment"].as_str().unwrap()).await;
    assert!(!String::from_utf8(svg.bytes).unwrap().contains("NaN"));
    whole.end().await;
}
