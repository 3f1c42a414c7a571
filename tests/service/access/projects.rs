//! What a key of one project learns of another: nothing. Every operation of the published document is walked.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::app::access::Rates;
use vstar::domain::id::{
    CompressionId, ConceptId, DeltaId, EvaluationId, ImageId, ImageSetId, MergeId, ProjectId,
    SampleId, StudyId, TrainingId, UploadId, WebhookDeliveryId, WebhookEndpointId,
};
use vstar::http::Doors;

use super::EVERYTHING;
use crate::harness::{Answer, DIGEST, Service, png};
use crate::image_sets::uploaded;

/// One of everything, in the default project.
struct World {
    service: Service,
    /// What stands for each parameter of a path.
    ids: BTreeMap<&'static str, String>,
    /// Of another project, with every scope but that of administrators.
    other_key: String,
}

impl World {
    async fn new(db: PgPool) -> Self {
        let service = Service::with_evaluator(db).await;
        let service = service.asking_for_keys(Rates::default(), Doors::default()).await;
        let (concept, delta) = service.trained_concept("rex", DIGEST).await;
        service.trained_concept("tom", DIGEST).await;
        let id = |answer: Answer| {
            assert!(answer.status < 300, "{answer:?}");
            answer.text("id")
        };
        let image = id(service.upload_image(png(64, 64, 9)).await);
        let set = uploaded(&service, &["a dog", "a cat"]).await;
        let training = service.get("/v1/trainings").await.body["data"][0]["id"].clone();
        let sample = json!({ "prompt": "photo of a <rex> dog", "num_inference_steps": 2 });
        let sample = id(service.post("/v1/samples", sample).await);
        let merge = json!({ "concepts": [{ "concept": "rex" }, { "concept": "tom" }] });
        let merge = id(service.post("/v1/merges", merge).await);
        let compress = format!("/v1/deltas/{delta}/compress");
        let compression = id(service.post(&compress, json!({ "rank": 1 })).await);
        let evaluation = json!({
            "subjects": [{ "concepts": [{ "concept": "rex" }] }], "prompts": ["photo of a {}"],
            "images_per_prompt": 1, "num_inference_steps": 2,
        });
        let evaluation = id(service.post("/v1/evaluations", evaluation).await);
        let endpoint = json!({ "url": "https://example.com/hook" });
        let endpoint = service.post("/v1/webhook-endpoints", endpoint).await;
        let endpoint = id(endpoint);
        let study = StudyId::generate();
        let side = json!({ "evaluation": evaluation, "subject": "rex" });
        let definition = json!({ "photos": [], "sides": [side, side], "pairs": [] });
        sqlx::query("insert into preference_study (study_id, definition) values ($1, $2)")
            .bind(study.0)
            .bind(definition)
            .execute(&service.db)
            .await
            .unwrap();
        let (_, other_key) = service.project_with_key("other", EVERYTHING).await;
        let ids = BTreeMap::from([
            ("concept", concept),
            ("delta_id", delta),
            ("image_id", image),
            ("set", set.text("id")),
            ("training_id", training.as_str().unwrap().to_owned()),
            ("sample_id", sample),
            ("merge_id", merge),
            ("compression_id", compression),
            ("evaluation_id", evaluation),
            ("endpoint_id", endpoint),
            ("study_id", study.to_string()),
            // There are none of these.
            ("delivery_id", WebhookDeliveryId::generate().to_string()),
            ("upload_id", UploadId::generate().to_string()),
        ]);
        Self { service, ids, other_key }
    }

    async fn as_other(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = self.service.request_without_key(method, path).bearer_auth(&self.other_key);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        self.service.send(request).await
    }
}

/// Ids of the right form that nothing has.
fn random_ids() -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("concept", ConceptId::generate().to_string()),
        ("delta_id", DeltaId::generate().to_string()),
        ("image_id", ImageId::generate().to_string()),
        ("set", ImageSetId::generate().to_string()),
        ("training_id", TrainingId::generate().to_string()),
        ("sample_id", SampleId::generate().to_string()),
        ("merge_id", MergeId::generate().to_string()),
        ("compression_id", CompressionId::generate().to_string()),
        ("evaluation_id", EvaluationId::generate().to_string()),
        ("study_id", StudyId::generate().to_string()),
        ("endpoint_id", WebhookEndpointId::generate().to_string()),
        ("delivery_id", WebhookDeliveryId::generate().to_string()),
        ("upload_id", UploadId::generate().to_string()),
    ])
}

/// The path with these ids, or the name of a parameter that is not known.
fn filled(pattern: &str, ids: &BTreeMap<&'static str, String>) -> Result<String, String> {
    let mut path = Vec::new();
    for segment in pattern.split('/') {
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        path.push(match name {
            None => segment.to_owned(),
            Some("index" | "step") => "0".to_owned(),
            Some("model") => ids["delta_id"].clone(),
            Some(name) => ids.get(name).cloned().ok_or_else(|| name.to_owned())?,
        });
    }
    Ok(path.join("/"))
}

/// Bodies that are valid as such.
fn body_of(method: &str, pattern: &str) -> Option<Value> {
    let body = match (method, pattern.rsplit('/').next().unwrap()) {
        ("get" | "delete", _) => return None,
        (_, "compress") => json!({ "rank": 1 }),
        (_, "links") => json!({ "links": 1 }),
        (_, "retrieve") => json!({ "prompt": "a dog" }),
        (_, "promote") => json!({ "delta": DeltaId::generate() }),
        ("post", _) => json!({}),
        _ => json!({ "metadata": { "a": "b" } }),
    };
    Some(body)
}

/// What an answer tells, without the ids that the request named.
fn told(
    answer: &Answer,
    ids: &BTreeMap<&'static str, String>,
    path: &str,
) -> (u16, String, String) {
    let mut text = String::from_utf8_lossy(&answer.bytes).into_owned();
    text = text.replace(answer.header("x-request-id"), "REQUEST");
    for segment in path.split('/').filter(|segment| segment.len() > 20) {
        text = text.replace(segment, "ID");
    }
    for id in ids.values() {
        text = text.replace(id, "ID");
    }
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "x-request-id" | "date" | "content-length"))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    (answer.status, text, headers.join("\n"))
}

fn document() -> Value {
    serde_json::from_str(&vstar::http::openapi().to_json().unwrap()).unwrap()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_foreign_id_is_answered_like_one_that_nothing_has(db: PgPool) {
    let world = World::new(db).await;
    let random = random_ids();
    let document = document();
    let (mut walked, mut wrong) = (0, Vec::new());
    // Deleting comes last, so that there is something to be found meanwhile.
    let mut operations = Vec::new();
    for (pattern, methods) in document["paths"].as_object().unwrap() {
        // Others are for administrators, or open to whoever has a token.
        let is_admins = ["/v1/projects", "/v1/api-keys", "/votes/", "/uploads/"];
        if !pattern.contains('{') || is_admins.iter().any(|begin| pattern.starts_with(begin)) {
            continue;
        }
        for method in methods.as_object().unwrap().keys() {
            operations.push((method == "delete", method.clone(), pattern.clone()));
        }
    }
    operations.sort();
    for (_, name, pattern) in operations {
        let method: Method = name.to_uppercase().parse().unwrap();
        let foreign = filled(&pattern, &world.ids)
            .unwrap_or_else(|name| panic!("{pattern}: give the test an object for `{name}`"));
        let other = filled(&pattern, &random).unwrap_or_else(|name| panic!("{name}"));
        let body = body_of(&name, &pattern);

        let of_foreign = world.as_other(method.clone(), &foreign, body.as_ref()).await;
        let of_random = world.as_other(method.clone(), &other, body.as_ref()).await;

        walked += 1;
        let a = told(&of_foreign, &world.ids, &foreign);
        let b = told(&of_random, &random, &other);
        if a != b || of_foreign.status < 400 {
            wrong.push(format!("{method} {pattern}:\n  foreign {a:?}\n  random  {b:?}"));
        }
    }
    assert!(walked > 60, "{walked}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // And to its own project all of it is still there.
    for (pattern, methods) in document["paths"].as_object().unwrap() {
        let is_other = ["/v1/projects", "/v1/api-keys", "/votes/", "/uploads/"];
        let is_other = is_other.iter().any(|begin| pattern.starts_with(begin));
        let shows = pattern.ends_with('}') && methods.get("get").is_some() && !is_other;
        let known = ["{index}", "{delivery_id}", "{upload_id}", "{model}"];
        if shows && pattern.contains('{') && !known.iter().any(|name| pattern.ends_with(name)) {
            let path = filled(pattern, &world.ids).unwrap();
            let own = world.service.get(&path).await;
            assert_eq!(own.status, 200, "{pattern}: {own:?}");
        }
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn lists_and_counts_of_another_project_are_empty(db: PgPool) {
    let world = World::new(db).await;
    let document = document();
    let mut walked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        if path.contains('{') || methods.get("get").is_none() || !path.starts_with("/v1/") {
            continue;
        }
        let answer = world.as_other(Method::GET, path, None).await;
        if answer.status == 403 {
            assert!(
                ["/v1/projects", "/v1/api-keys", "/v1/audit"].contains(&path.as_str()),
                "{path}"
            );
            continue;
        }
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        for (name, id) in &world.ids {
            assert!(!text.contains(id.as_str()), "{path} tells the {name} of another project");
        }
        if answer.body["object"] == "list" {
            walked += 1;
            assert_eq!(answer.body["data"], json!([]), "{path}");
        }
    }
    assert!(walked >= 9, "{walked}");
    let usage = world.as_other(Method::GET, "/v1/usage", None).await;
    for count in ["concepts", "images", "image_sets", "deltas", "stored_bytes", "queued_jobs"] {
        assert_eq!(usage.body[count], 0, "{count}");
    }
    let own = world.service.get("/v1/usage").await;
    assert_eq!((&own.body["concepts"], &own.body["image_sets"]), (&json!(2), &json!(1)));
    assert!(own.body["stored_bytes"].as_i64().unwrap() > 1000, "{own:?}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_body_cannot_name_what_belongs_to_another_project(db: PgPool) {
    let world = World::new(db).await;
    let sha256 = world.service.get(&format!("/v1/images/{}", world.ids["image_id"])).await;
    let sha256 = sha256.text("sha256");
    let random = random_ids();
    let of = |name: &str| (world.ids[name].clone(), random[name].clone());
    let prompt = |fields: Value| {
        let mut body = json!({ "prompt": "photo of a dog", "num_inference_steps": 2 });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let concepts = |id: &str| json!({ "concepts": [{ "concept": id }] });
    let (concept, delta, image, set) = (of("concept"), of("delta_id"), of("image_id"), of("set"));
    let evaluation = of("evaluation_id");
    let side = |id: &str| json!({ "evaluation": id });
    let both =
        |build: &dyn Fn(&str) -> Value, pair: &(String, String)| (build(&pair.0), build(&pair.1));
    for (path, (foreign, other)) in [
        ("/v1/samples", both(&|id| prompt(concepts(id)), &concept)),
        ("/v1/samples", both(&|id| prompt(json!({ "concepts": [{ "delta": id }] })), &delta)),
        ("/v1/samples", both(&|id| prompt(json!({ "init_image": id })), &image)),
        ("/v1/samples", (json!({ "prompt": "a <rex> dog" }), json!({ "prompt": "a <rey> dog" }))),
        ("/v1/samples", (prompt(concepts("rex")), prompt(concepts("rey")))),
        ("/v1/trainings", both(&|id| json!({ "concepts": [id] }), &concept)),
        (
            "/v1/merges",
            both(&|id| json!({ "concepts": [{ "delta": id }, { "delta": id }] }), &delta),
        ),
        ("/v1/merges/check", both(&|id| concepts(id), &concept)),
        (
            "/v1/evaluations",
            both(&|id| json!({ "subjects": [concepts(id)], "prompts": ["a {}"] }), &concept),
        ),
        (
            "/v1/evaluations",
            both(
                &|id| json!({ "subjects": [{ "base": true }], "prompts": ["a {}"], "concepts": [id] }),
                &concept,
            ),
        ),
        (
            "/v1/preference-studies",
            both(&|id| json!({ "first": side(id), "second": side(id) }), &evaluation),
        ),
        ("/v1/client-tokens", both(&|id| json!({ "concept": id }), &concept)),
        ("/v1/client-tokens", both(&|id| json!({ "job": id }), &of("training_id"))),
    ] {
        let a = world.as_other(Method::POST, path, Some(&foreign)).await;
        let b = world.as_other(Method::POST, path, Some(&other)).await;

        assert_eq!(a.status, 422, "{path} {foreign}: {a:?}");
        let text = |answer: &Answer, id: &[&str]| {
            let mut body = answer.body.clone();
            body["request_id"] = Value::Null;
            let mut text = body.to_string();
            for id in id {
                text = text.replace(id, "ID");
            }
            text
        };
        let (ours, theirs) = (
            world.ids.values().map(String::as_str).chain(["<rex>", "rex"]).collect::<Vec<_>>(),
            random.values().map(String::as_str).chain(["<rey>", "rey"]).collect::<Vec<_>>(),
        );
        assert_eq!(text(&a, &ours), text(&b, &theirs), "{path} {foreign}");
    }

    let of_concept = |id: &str| format!("/v1/deltas?concept={id}");
    assert_eq!(world.as_other(Method::GET, &of_concept("rex"), None).await.status, 404);
    let by_digest = world.as_other(Method::GET, &format!("/v1/image-sets/{sha256}"), None).await;
    assert_eq!(by_digest.status, 404);
    let set = world.service.get(&format!("/v1/image-sets/{}", set.0)).await.text("digest");
    assert_eq!(
        world.as_other(Method::GET, &format!("/v1/image-sets/{set}"), None).await.status,
        404
    );
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn names_are_free_in_another_project(db: PgPool) {
    let world = World::new(db).await;
    let rex = json!({ "handle": "rex", "modifier_token": "<rex>", "class_noun": "cat" });

    let theirs = world.as_other(Method::POST, "/v1/concepts", Some(&rex)).await;
    let again = world.as_other(Method::POST, "/v1/concepts", Some(&rex)).await;

    assert_eq!(theirs.status, 201, "{theirs:?}");
    assert_eq!(again.problem().1, "handle_taken");
    let ours = world.service.get("/v1/concepts/rex").await;
    assert_eq!(
        (ours.text("id"), ours.text("class_noun")),
        (world.ids["concept"].clone(), "dog".into())
    );
    let found = world.as_other(Method::GET, "/v1/concepts/rex", None).await;
    assert_eq!(found.text("id"), theirs.text("id"));
    // A photo that another project has is no duplicate.
    let path = format!("/v1/concepts/{}/images", theirs.text("id"));
    let form = reqwest::multipart::Form::new()
        .part("files", reqwest::multipart::Part::bytes(png(64, 48, 0)).file_name("photo.png"));
    let request =
        world.service.request_without_key(Method::POST, &path).bearer_auth(&world.other_key);
    assert_eq!(world.service.send(request.multipart(form)).await.status, 201);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_a_worker_makes_belongs_to_its_jobs_project(db: PgPool) {
    let service = Service::start(db).await;
    let service = service.asking_for_keys(Rates::default(), Doors::default()).await;
    let (project, _) = service.project_with_key("other", EVERYTHING).await;
    let project: ProjectId = project.parse().unwrap();
    service.trained_concept("rex", DIGEST).await;
    for table in ["job", "concept"] {
        let moved = format!("update {table} set project_id = $1");
        sqlx::query(sqlx::AssertSqlSafe(moved)).bind(project.0).execute(&service.db).await.unwrap();
    }

    let (job_id, concept_id): (uuid::Uuid, uuid::Uuid) =
        sqlx::query_as("select job_id, concept_id from job, concept")
            .fetch_one(&service.db)
            .await
            .unwrap();
    sqlx::query("delete from delta_concept").execute(&service.db).await.unwrap();
    sqlx::query("update concept set current_delta_id = null").execute(&service.db).await.unwrap();
    sqlx::query("delete from delta").execute(&service.db).await.unwrap();
    service.record_delta(vstar::domain::id::JobId(job_id), ConceptId(concept_id), DIGEST).await;

    let whose: uuid::Uuid =
        sqlx::query_scalar("select project_id from delta").fetch_one(&service.db).await.unwrap();
    assert_eq!(whose, project.0);
}
