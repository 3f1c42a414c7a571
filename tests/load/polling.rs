//! Many clients that look at a running training three times a second each.

use std::time::Duration;

use tokio::time::Instant;

use crate::api::Api;
use crate::connection::Connection;
use crate::server::Server;
use crate::table::{Bound, Row};

const CLIENTS: u32 = 1000;
/// 3000 requests a second together, with a little room.
const EVERY: Duration = Duration::from_millis(325);
/// How long the training is watched without and with the clients.
const ALONE: Duration = Duration::from_secs(15);
const LOADED: Duration = Duration::from_secs(30);

/// What one client has seen.
#[derive(Default)]
struct Seen {
    /// From when a request was due to its answer, in seconds.
    latencies: Vec<f64>,
    errors: usize,
}

pub(crate) async fn run() -> Vec<Row> {
    let server = Server::start("polling").await;
    let api = Api::new(server.url());
    api.concept().await;
    let training = api.train(100_000).await;
    api.is_training(&training).await;
    let alone = steps_per_second(&api, &training, ALONE).await;

    let clients: Vec<_> = (0..CLIENTS)
        .map(|index| {
            let (address, path) = (server.address(), training.clone());
            tokio::spawn(client(address, path, EVERY * index / CLIENTS))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(3)).await; // all are connected by then
    let loaded = steps_per_second(&api, &training, LOADED).await;
    let mut seen = Seen::default();
    for client in clients {
        let one = client.await.unwrap();
        seen.latencies.extend(one.latencies);
        seen.errors += one.errors;
    }
    api.post(&format!("{training}/cancel"), &serde_json::json!({})).await;

    seen.latencies.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let index = (seen.latencies.len() as f64 * share) as usize;
        seen.latencies.get(index).copied().unwrap_or(f64::INFINITY) * 1e3
    };
    let load = "1000 clients poll a training";
    let rate = seen.latencies.len() as f64 / LOADED.as_secs_f64();
    vec![
        Row::new(load, "requests a second", rate, "", Bound::AtLeast(3000.0)),
        Row::new(load, "latency, median", quantile(0.5), "ms", Bound::None),
        Row::new(load, "latency, 99th percentile", quantile(0.99), "ms", Bound::AtMost(250.0)),
        Row::new(load, "errors", seen.errors as f64, "", Bound::AtMost(0.0)),
        Row::new(load, "training alone", alone, "steps/s", Bound::None),
        Row::new(load, "step time against alone", alone / loaded, "×", Bound::AtMost(1.3)),
    ]
}

async fn steps_per_second(api: &Api, training: &str, during: Duration) -> f64 {
    let (began, first) = (Instant::now(), api.step(training).await);
    tokio::time::sleep(during).await;
    let last = api.step(training).await;
    (last - first) as f64 / began.elapsed().as_secs_f64()
}

/// Polls on one connection. The first seconds, in which others still connect, do not count.
///
/// - `offset`: when its first request is due, so that not all are due at once
async fn client(address: String, path: String, offset: Duration) -> Seen {
    let mut seen = Seen::default();
    let began = Instant::now();
    let counts_from = began + Duration::from_secs(3);
    let mut due = began + offset;
    let mut connection = Connection::open(&address, &path).await.ok();
    while due < counts_from + LOADED {
        tokio::time::sleep_until(due).await;
        let answer = match &mut connection {
            Some(connection) => connection.ask().await.ok(),
            None => None,
        };
        if answer.is_none() {
            connection = Connection::open(&address, &path).await.ok();
        }
        if due >= counts_from {
            match answer {
                Some(200) => seen.latencies.push(due.elapsed().as_secs_f64()),
                Some(_) | None => seen.errors += 1,
            }
        }
        due += EVERY;
    }
    seen
}
