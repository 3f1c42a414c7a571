//! Log lines: which request, which job, under the ids that clients know.

use serde_json::{Value, json};
use sqlx::PgPool;

use super::{Process, api};

/// The log as JSON, line by line.
fn lines(process: &Process) -> Vec<Value> {
    let log = process.log();
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_can_be_followed_from_its_request_to_its_end(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let (api, client) = api(&db, &objects, &["--log-format", "json"]).await;
    let worker = Process::start("work", &db, &objects, &["--log-format", "json"]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = client.http.post(format!("{}/v1/samples", client.address));
    let request = request.header("x-request-id", "order-17");
    let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let body = json!({ "prompt": "a dog", "num_inference_steps": 2 });
    let started: Value = request.json(&body).send().await.unwrap().json().await.unwrap();
    let id = started["id"].as_str().unwrap();

    client.wait(&format!("/v1/samples/{id}"), |job| job["status"] == "succeeded").await;

    let access = lines(&api).into_iter().find(|line| line["span"]["id"] == "order-17");
    let access = access.unwrap_or_else(|| panic!("{}", api.log()));
    assert_eq!(access["level"], "INFO");
    let fields = &access["fields"];
    assert_eq!((&fields["method"], &fields["route"]), (&json!("POST"), &json!("/v1/samples")));
    assert_eq!(fields["status"], 202);
    assert!(
        fields["milliseconds"].as_f64().unwrap() > 0.0 && fields["bytes"].as_u64().unwrap() > 100
    );
    assert!(fields["caller"].as_str().unwrap().starts_with("prj_"), "{access}");
    let of_job: Vec<Value> =
        lines(&worker).into_iter().filter(|line| line["span"]["name"] == "job").collect();
    let said: Vec<&str> =
        of_job.iter().filter_map(|line| line["fields"]["message"].as_str()).collect();
    assert!(said.contains(&"began") && said.contains(&"succeeded"), "{}", worker.log());
    for line in &of_job {
        assert_eq!(line["span"]["id"], id, "{line}");
        assert_eq!(
            (&line["span"]["request"], &line["span"]["trace"]),
            (&json!("order-17"), &json!(trace))
        );
    }
    assert!(!worker.log().contains("job_"), "jobs are logged under no other id: {}", worker.log());
}
