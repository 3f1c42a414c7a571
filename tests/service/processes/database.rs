//! A database that stops answering, or dies, under a process that serves.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Client, Process, free_address, program, signal};

/// An API on a private Postgres, and where its data is.
async fn private_api() -> (Process, Client, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let address = free_address();
    let mut command = program(&["serve", "--no-worker", "--listen", &address.to_string()]);
    command.arg("--data-dir").arg(data.path());
    let process = Process::of(command);
    let client = Client::of(address);
    client.is_ready().await;
    (process, client, data)
}

/// The server's first process.
fn postmaster(data: &Path) -> u32 {
    let file = std::fs::read_to_string(data.join("postgres/cluster/postmaster.pid")).unwrap();
    file.lines().next().unwrap().parse().unwrap()
}

/// It and all that it has started.
fn servers(postmaster: u32) -> Vec<u32> {
    let children =
        std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"));
    let children = children.unwrap();
    let children = children.split_whitespace().map(|child| child.parse().unwrap());
    std::iter::once(postmaster).chain(children).collect()
}

#[tokio::test]
async fn requests_are_refused_within_seconds_while_the_database_is_stopped()
-> Result<(), reqwest::Error> {
    let (mut process, client, data) = private_api().await;
    let concept = json!({ "handle": "dog", "modifier_token": "<rex>", "class_noun": "dog" });
    client.post("/v1/concepts", concept).await;
    let stopped = servers(postmaster(data.path()));

    stopped.iter().for_each(|server| signal(*server, "STOP"));
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let began = Instant::now();
        let answer = client.http.get(format!("{}/v1/concepts", client.address)).send().await?;
        longest = longest.max(began.elapsed());
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "5");
        assert_eq!(answer.json::<serde_json::Value>().await?["code"], "database_unavailable");
    }
    let began = Instant::now();
    let ready = client.http.get(format!("{}/readyz", client.address)).send().await?;
    let readiness_took = began.elapsed();
    let alive = client.http.get(format!("{}/livez", client.address)).send().await?;
    let unready = ready.json::<serde_json::Value>().await?;
    stopped.iter().for_each(|server| signal(*server, "CONT"));
    let continued = Instant::now();
    client.is_ready().await;
    let concepts = client.wait("/v1/concepts", |list| list["data"].is_array()).await;
    let recovered = continued.elapsed();

    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert_eq!((alive.status().as_u16(), &unready["code"]), (200, &json!("database_unavailable")));
    assert!(readiness_took < Duration::from_secs(2), "{readiness_took:?}");
    assert_eq!(concepts["data"].as_array().unwrap().len(), 1);
    assert!(recovered < Duration::from_secs(5), "{recovered:?}");
    assert!(process.end().await, "{}", process.log());
    eprintln!("refused within {longest:?}, recovered in {recovered:?}");
    Ok(())
}

#[tokio::test]
async fn a_private_postgres_that_is_killed_is_started_again_under_its_process() {
    let (mut process, client, data) = private_api().await;
    let mut longest = Duration::ZERO;
    for round in 0..5 {
        let handle = format!("dog-{round}");
        let token = format!("<rex-{round}>");
        let concept = json!({ "handle": handle, "modifier_token": token, "class_noun": "dog" });
        client.post("/v1/concepts", concept).await;

        let killed = Instant::now();
        let before = postmaster(data.path());
        signal(before, "KILL");
        let came_back = loop {
            let answer = client.http.get(format!("{}/v1/concepts/{handle}", client.address)).send();
            let status = answer.await.unwrap().status().as_u16();
            assert!([200, 503].contains(&status), "{status}: {}", process.log());
            // The next one is killed when this one's return has been said, which may be later than the first answer.
            let returns = process.log().matches("the private Postgres answers again").count();
            if status == 200 && postmaster_is_another(data.path(), before) && returns > round {
                break killed.elapsed();
            }
            assert!(killed.elapsed() < Duration::from_secs(40), "{}", process.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        longest = longest.max(came_back);
    }

    let concepts = client.get("/v1/concepts").await;
    assert_eq!(concepts["data"].as_array().unwrap().len(), 5, "what was acknowledged is there");
    let log = process.log();
    assert_eq!(log.matches("the private Postgres ended, starting it again").count(), 5, "{log}");
    assert_eq!(log.matches("the private Postgres answers again").count(), 5, "{log}");
    assert!(process.end().await, "{}", process.log());
    eprintln!("a killed Postgres was back after {longest:?} at most");
}

fn postmaster_is_another(data: &Path, before: u32) -> bool {
    let file = std::fs::read_to_string(data.join("postgres/cluster/postmaster.pid"));
    let first = file.ok().and_then(|file| file.lines().next()?.parse::<u32>().ok());
    first.is_some_and(|now| now != before)
}
