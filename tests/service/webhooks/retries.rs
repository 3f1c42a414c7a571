//! What becomes of a delivery that fails: again, later, by hand, or never.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::domain::webhook::url::Receivers;

use super::receiver::{Behaviour, Receiver};
use super::{SenderGuard, delivery, endpoint, start};
use crate::harness::Service;

fn attempts(log: &Value) -> usize {
    log["attempts"].as_array().unwrap().len()
}

/// Lets all time pass until the next attempt.
async fn pass_time(db: &PgPool) {
    let due = sqlx::query(
        "update webhook_delivery set next_attempt_at = now() where state = 'pending' and leased_until is null",
    );
    due.execute(db).await.unwrap();
}

async fn test(service: &Service, path: &str) -> String {
    let answer = service.post(&format!("{path}/test"), json!({})).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.header("location").to_owned()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_failed_delivery_is_sent_again_with_the_same_id_and_body(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::StatusThen(503, 1, 200)).await;
    let (path, _) = endpoint(&service, &receiver.url()).await;

    let location = test(&service, &path).await;
    receiver.wait_for(2).await; // after five seconds
    let log = delivery(&service, &path, |log| log["status"] == "succeeded").await;

    assert_eq!(service.get(&location).await.body, log);
    let answers: Vec<&Value> =
        log["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["status_code"]).collect();
    assert_eq!(answers, [&json!(503), &json!(200)]);
    assert_eq!(log["attempts"][0]["answer"], "heard\n");
    assert_eq!((&log["next_attempt_at"], &log["reason"]), (&json!(null), &json!(null)));
    let [first, second] = receiver.requests().try_into().unwrap();
    assert_eq!(first.body, second.body);
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(log["id"], first.header("webhook-id"));
    assert_ne!(first.header("webhook-timestamp"), second.header("webhook-timestamp"));
    assert_eq!(service.get(&path).await.body["failing_since"], json!(null));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn after_ten_attempts_it_is_given_up_and_can_be_sent_by_hand(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::StatusThen(500, 10, 200)).await;
    let (path, _) = endpoint(&service, &receiver.url()).await;

    let location = test(&service, &path).await;
    for tries in 1..=10 {
        delivery(&service, &path, |log| attempts(log) == tries).await;
        pass_time(&db).await;
    }

    let given_up = service.get(&location).await.body;
    assert_eq!(
        (&given_up["status"], &given_up["reason"]),
        (&json!("failed"), &json!("every attempt has failed"))
    );
    let failed = service.get(&format!("{path}/deliveries?status=failed")).await.body;
    assert_eq!(failed["data"], json!([given_up]));
    let redelivered = service.post(&format!("{location}/redeliver"), json!({})).await;
    assert_eq!((redelivered.status, &redelivered.body["status"]), (202, &json!("pending")));
    let log = delivery(&service, &path, |log| log["status"] == "succeeded").await;
    assert_eq!(attempts(&log), 11);
    assert_eq!(receiver.requests()[10].header("webhook-id"), log["id"].as_str().unwrap());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_receiver_that_is_gone_is_left_alone(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::Status(410)).await;
    let (path, _) = endpoint(&service, &receiver.url()).await;

    test(&service, &path).await;
    let log = delivery(&service, &path, |log| log["status"] == "canceled").await;

    assert_eq!(attempts(&log), 1);
    let shown = service.get(&path).await.body;
    assert_eq!(
        (&shown["enabled"], &shown["disabled_reason"]),
        (&json!(false), &json!("the receiver answered 410 Gone"))
    );
    let enabled = service.request(Method::PATCH, &path).json(&json!({ "enabled": true }));
    let enabled = service.send(enabled).await.body;
    assert_eq!((&enabled["enabled"], &enabled["disabled_reason"]), (&json!(true), &json!(null)));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_receiver_that_fails_for_five_days_is_disabled(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::Status(404)).await;
    let (path, _) = endpoint(&service, &receiver.url()).await;
    test(&service, &path).await;
    delivery(&service, &path, |log| attempts(log) == 1).await;

    for (since, enabled) in [("4 days 23 hours", true), ("5 days 1 hour", false)] {
        let sql = "update webhook_endpoint set failing_since = now() - $1::interval";
        let count = attempts(&delivery(&service, &path, |_| true).await);
        sqlx::query(sql).bind(since).execute(&db).await.unwrap_or_else(|_| panic!("{since}"));
        pass_time(&db).await;
        delivery(&service, &path, |log| attempts(log) == count + 1).await;
        for _ in 0..20 {
            if service.get(&path).await.body["enabled"] == enabled {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(service.get(&path).await.body["enabled"], enabled, "failing for {since}");
    }
    let reason = service.get(&path).await.text("disabled_reason");
    assert!(reason.contains("five days"), "{reason}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn nobody_there_is_an_attempt_that_says_so(db: PgPool) {
    let (service, _sender) = start(&db).await;
    // The port is free again when the listener is gone.
    let port =
        tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    let (path, _) = endpoint(&service, &format!("http://127.0.0.1:{port}/")).await;

    test(&service, &path).await;
    let log = delivery(&service, &path, |log| attempts(log) == 1).await;

    let error = log["attempts"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("the receiver could not be connected to"), "{error}");
    assert!(service.get(&path).await.body["failing_since"].is_string());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_delivery_of_a_sender_that_died_is_sent_by_another(db: PgPool) {
    let service = Service::start(db.clone()).await.allowing_private_webhooks().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (path, _) = endpoint(&service, &receiver.url()).await;
    test(&service, &path).await;
    let taken = sqlx::query(
        "update webhook_delivery set attempts = 1, tries = 1, leased_until = now() + interval '2 seconds',
            next_attempt_at = now() + interval '2 seconds'",
    );
    taken.execute(&db).await.unwrap();

    let _sender = SenderGuard::start(&db, Receivers::Any);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(receiver.requests().len(), 0, "it is held");
    let log = delivery(&service, &path, |log| log["status"] == "succeeded").await;

    assert_eq!(log["attempts"][0]["attempt"], 2);
    assert_eq!(receiver.requests().len(), 1);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn two_senders_send_each_event_once(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let _other = SenderGuard::start(&db, Receivers::Any);
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (path, _) = endpoint(&service, &receiver.url()).await;

    for _ in 0..40 {
        test(&service, &path).await;
    }
    receiver.wait_for(40).await;
    tokio::time::sleep(Duration::from_millis(700)).await;

    let mut ids: Vec<String> =
        receiver.requests().iter().map(|request| request.header("webhook-id")).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), receiver.requests().len()), (40, 40));
}
