//! Many listeners to one training, over a restart of the server.

use std::time::Duration;

use reqwest::Client;
use tokio::time::Instant;

use crate::api::Api;
use crate::server::Server;
use crate::table::{Bound, Row};

const LISTENERS: usize = 500;
const STEPS: u64 = 900;

/// What a listener has heard, in order: the ids of events.
#[derive(Debug, Default)]
struct Heard {
    ids: Vec<i64>,
    connections: usize,
    has_ended: bool,
}

pub(crate) async fn run() -> Vec<Row> {
    let mut server = Server::start("streams").await;
    let api = Api::new(server.url());
    api.concept().await;
    let training = api.train(STEPS).await;
    let events = format!("{}{training}/events", server.url());
    let listeners: Vec<_> = (0..LISTENERS).map(|_| tokio::spawn(listen(events.clone()))).collect();
    api.is_training(&training).await;
    tokio::time::sleep(Duration::from_secs(3)).await;

    let restart = Instant::now();
    server.restart().await;
    let restart = restart.elapsed().as_secs_f64();

    let mut heard = Vec::new();
    for listener in listeners {
        heard.push(listener.await.unwrap());
    }
    let all = listen(events).await;
    let is_whole = |one: &&Heard| one.ids == all.ids && one.has_ended;
    let whole = heard.iter().filter(is_whole).count() as f64;
    let again = heard.iter().filter(|one| one.connections > 1).count() as f64;
    let load = "500 event streams over a restart";
    vec![
        Row::new(load, "events of the job", all.ids.len() as f64, "", Bound::AtLeast(10.0)),
        Row::new(
            load,
            "listeners that connected again",
            again,
            "",
            Bound::AtLeast(LISTENERS as f64),
        ),
        Row::new(
            load,
            "listeners with every event once, in order",
            whole,
            "",
            Bound::AtLeast(LISTENERS as f64),
        ),
        Row::new(load, "restart, from SIGTERM to ready", restart, "s", Bound::None),
    ]
}

/// Listens until the last event, and connects again whenever the stream breaks off.
async fn listen(url: String) -> Heard {
    let client = Client::builder().build().unwrap();
    let mut heard = Heard::default();
    let began = Instant::now();
    while !heard.has_ended && began.elapsed() < Duration::from_secs(300) {
        let mut request = client.get(&url);
        if let Some(last) = heard.ids.last() {
            request = request.header("last-event-id", last.to_string());
        }
        if let Ok(mut answer) = request.send().await
            && answer.status() == 200
        {
            heard.connections += 1;
            let mut text = String::new();
            while let Ok(Some(chunk)) = answer.chunk().await {
                text.push_str(&String::from_utf8_lossy(&chunk));
                while let Some(end) = text.find("\n\n") {
                    note(&text[..end], &mut heard);
                    text.drain(..end + 2);
                }
            }
        }
        if !heard.has_ended {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    heard
}

/// Reads one event; comments have no id.
fn note(event: &str, heard: &mut Heard) {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if let Some(id) = field("id:").and_then(|id| id.parse().ok()) {
        heard.ids.push(id);
    }
    heard.has_ended |= field("event:") == Some("job.terminal");
}
