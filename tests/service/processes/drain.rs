//! The end of a process: who is told what, what is finished, and how long it takes.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use serde_json::json;
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Client, Process, api};

/// Opens an event stream and returns when its first event is there; the task returns all of it.
async fn follow(client: &Client, path: &str) -> tokio::task::JoinHandle<String> {
    let response =
        client.http.get(format!("{}{path}/events", client.address)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut chunks = response.bytes_stream();
    let first = chunks.next().await.unwrap().unwrap();
    tokio::spawn(async move {
        let mut text = String::from_utf8_lossy(&first).into_owned();
        while let Some(chunk) = chunks.next().await {
            text.push_str(&String::from_utf8_lossy(&chunk.unwrap()));
        }
        text
    })
}

/// hyperium/hyper#2787, tokio-rs/axum#2673, blackrock/HOLA#43: open streams hold the shutdown.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn streams_and_waits_end_at_once_and_the_listener_stays_for_the_grace(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let (mut process, client) = api(&db, &objects, &["--drain-grace", "3"]).await;
    let (mut streams, mut paths) = (Vec::new(), Vec::new());
    for seed in 0..50 {
        let sample = client.post("/v1/samples", json!({ "prompt": "a dog", "seed": seed })).await;
        let path = format!("/v1/samples/{}", sample["id"].as_str().unwrap());
        streams.push(follow(&client, &path).await);
        paths.push(path);
    }
    let waits: Vec<_> = (0..30)
        .map(|_| {
            let request = client.http.post(format!("{}/v1/samples", client.address));
            let request = request.header("prefer", "wait=55").json(&json!({ "prompt": "a dog" }));
            tokio::spawn(async move {
                let response = request.send().await.unwrap();
                (response.status().as_u16(), Instant::now())
            })
        })
        .collect();
    let queued = "select count(*) from job";
    while sqlx::query_scalar::<_, i64>(queued).fetch_one(&db).await.unwrap() < 80 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let kept = reqwest::Client::new();
    let livez = format!("{}/livez", client.address);
    kept.get(&livez).send().await.unwrap();

    let asked = Instant::now();
    process.signal("TERM");
    let answers = join_all(waits).await;
    let texts = join_all(streams).await;
    let told = asked.elapsed();
    let ready = client.http.get(format!("{}/readyz", client.address)).send().await.unwrap();
    let (ready, problem) = (ready.status(), ready.json::<serde_json::Value>().await.unwrap());
    let alive = kept.get(&livez).send().await.unwrap();
    let listed = client.get("/v1/samples").await;
    let still_open = asked.elapsed();
    let status = process.ended().await;
    let took = asked.elapsed();

    assert!(told < Duration::from_secs(2), "streams and waits ended after {told:?}");
    for answer in answers {
        assert_eq!(answer.unwrap().0, 202, "a wait is answered with the present state");
    }
    let mut followed = Vec::new();
    for (path, text) in paths.into_iter().zip(texts) {
        let text = text.unwrap();
        assert_eq!(text.matches("event: job.updated").count(), 1, "{text}");
        let id = text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
        followed.push((path, id.to_owned()));
    }
    assert_eq!((ready.as_u16(), &problem["code"]), (503, &json!("shutting_down")));
    assert_eq!(
        (alive.status().as_u16(), alive.headers()["connection"].as_bytes()),
        (200, &b"close"[..])
    );
    assert!(!listed["data"].as_array().unwrap().is_empty(), "requests are still served");
    assert!(still_open < Duration::from_secs(3));
    assert!(status.success(), "{status}: {}", process.log());
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(5), "{took:?}");
    eprintln!("streams and waits ended after {told:?}, the process after {took:?}");

    // Another process goes on where the streams ended: no event is lost or comes twice.
    let (_other, client) = api(&db, &objects, &[]).await;
    client.post(&format!("{}/cancel", followed[0].0), json!({})).await;
    let events = client.http.get(format!("{}{}/events", client.address, followed[0].0));
    let events = events.header("last-event-id", &followed[0].1).send().await.unwrap();
    let events = events.text().await.unwrap();
    assert_eq!(events.matches("event: job.").count(), 1, "{events}");
    assert!(events.contains("event: job.terminal"), "{events}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_upload_that_trickles_is_cut_five_seconds_after_the_listener_closes(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let (mut process, client) = api(&db, &objects, &["--drain-grace", "1"]).await;
    let stream = tokio::net::TcpStream::connect(client.socket()).await.unwrap();
    let (mut receives, mut sends) = stream.into_split();
    let head = "POST /v1/images HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\n\
        content-length: 100000\r\n\r\n--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n\r\n";
    sends.write_all(head.as_bytes()).await.unwrap();
    let trickle = tokio::spawn(async move {
        while sends.write_all(b".").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });

    let asked = Instant::now();
    process.signal("TERM");
    let mut answer = String::new();
    let _ = receives.read_to_string(&mut answer).await;
    let status = process.ended().await;
    let took = asked.elapsed();
    trickle.abort();

    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
    assert!(status.success(), "{status}: {}", process.log());
    assert!(took < Duration::from_secs(8), "{took:?}");
    eprintln!("a trickled upload held the end for {took:?}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_half_sent_head_does_not_hold_the_end_beyond_the_timeout(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let times = ["--drain-grace", "0", "--shutdown-timeout", "3"];
    let (mut process, client) = api(&db, &objects, &times).await;
    let mut stream = TcpStream::connect(client.socket()).unwrap();
    stream.write_all(b"GET /livez HTT").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;

    let asked = Instant::now();
    process.signal("TERM");
    process.ended().await;

    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_worker_finishes_its_samples_and_hands_its_training_back(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let (_api, client) = api(&db, &objects, &[]).await;
    let mut worker = Process::start("work", &db, &objects, &["--drain-grace", "20"]);
    let training = client.start_endless_training().await;
    client.wait(&training, |training| training["progress"]["step"].as_u64() > Some(1)).await;
    let sample = json!({ "prompt": "a dog", "num_inference_steps": 60 });
    let sample = client.post("/v1/samples", sample).await;
    let sample = format!("/v1/samples/{}", sample["id"].as_str().unwrap());
    client.wait(&sample, |sample| sample["progress"]["step"].as_u64() > Some(1)).await;

    let asked = Instant::now();
    worker.signal("TERM");
    let handed_back = client.wait(&training, |training| training["status"] == "queued").await;
    let after = asked.elapsed();
    let status = worker.ended().await;
    let sample = client.get(&sample).await;

    assert!(status.success(), "{status}: {}", worker.log());
    assert!(after < Duration::from_secs(10), "the training stopped after {after:?}");
    assert_eq!(handed_back["progress"], json!(null));
    assert_eq!((&sample["status"], &sample["attempt"]), (&json!("succeeded"), &json!(1)));
    assert!(asked.elapsed() < Duration::from_secs(20), "it ends as soon as it has nothing to do");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_second_signal_ends_the_process_at_once(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let (mut process, _client) = api(&db, &objects, &["--drain-grace", "20"]).await;
        process.signal("TERM");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!process.has_ended(), "the grace has only begun");

        let again = Instant::now();
        process.signal(name);
        let status = process.ended().await;

        assert_eq!(status.code(), Some(code), "{}", process.log());
        assert!(again.elapsed() < Duration::from_secs(1), "{:?}", again.elapsed());
    }
}
