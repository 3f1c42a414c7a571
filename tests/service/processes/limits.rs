//! What one client may take of the HTTP server.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Client, api};

/// Sends this, then nothing. Returns what comes back until the connection ends, and when that is.
async fn then_silent(client: &Client, sent: &str) -> (String, Duration) {
    let mut stream = TcpStream::connect(client.socket()).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let began = Instant::now();
    let mut answer = String::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut answer)).await;
    (answer, began.elapsed())
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_client_that_falls_silent_does_not_keep_its_connection(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let (_process, client) = api(&db, &objects, &["--idle-timeout", "4"]).await;
    let body = "POST /v1/concepts HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";

    let (nothing, head, preface, idle, body) = tokio::join!(
        then_silent(&client, ""),
        then_silent(&client, "GET /livez HTTP/1.1\r\nhost: loc"),
        then_silent(&client, "PR"),
        then_silent(&client, "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        then_silent(&client, body),
    );

    let idle_limit = Duration::from_millis(3500)..Duration::from_secs(15);
    let body_limit = Duration::from_secs(28)..Duration::from_secs(40);
    for (what, (answer, after), limit) in [
        ("nothing", &nothing, &idle_limit),
        ("head", &head, &idle_limit),
        ("preface", &preface, &idle_limit),
        ("idle", &idle, &idle_limit),
        ("body", &body, &body_limit),
    ] {
        assert!(limit.contains(after), "{what}: {after:?}, {answer}");
    }
    assert!(idle.0.starts_with("HTTP/1.1 200"), "{}", idle.0);
    assert!(body.0.starts_with("HTTP/1.1 408") && body.0.contains("request_timeout"), "{}", body.0);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_upload_may_take_long_as_long_as_something_comes(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let (_process, client) = api(&db, &objects, &[]).await;
    let stream = TcpStream::connect(client.socket()).await.unwrap();
    let (mut receives, mut sends) = stream.into_split();
    let head = "POST /v1/concepts HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
        content-length: 60\r\n\r\n";
    let body = r#"{"handle": "dog", "modifier_token": "<rex>", "class_noun": "dog"}"#;

    sends.write_all(head.replace("60", &body.len().to_string()).as_bytes()).await.unwrap();
    for piece in [&body[..10], &body[10..20]] {
        sends.write_all(piece.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(18)).await;
    }
    sends.write_all(&body.as_bytes()[20..]).await.unwrap();
    let mut answer = String::new();
    receives.read_to_string(&mut answer).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_connection_too_many_is_told_to_come_again(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let (_process, client) = api(&db, &objects, &["--max-connections", "3"]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(client.socket()).await.unwrap());
    }
    // The client of `is_ready` has kept the third one.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (refused, after) = then_silent(&client, "").await;
    held.clear();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let again = reqwest::get(format!("{}/livez", client.address)).await.unwrap();

    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
    assert!(after < Duration::from_secs(2));
    assert_eq!(again.status(), 200);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_client_may_speak_http2(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let (mut process, client) = api(&db, &objects, &["--drain-grace", "0"]).await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();

    let answer = http2.get(format!("{}/readyz", client.address)).send().await.unwrap();

    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    assert!(process.end().await);
}
