//! What keys, limits and access lines add to the latency of a request.

use std::time::Instant;

use crate::api::Api;
use crate::connection::Connection;
use crate::server::Server;
use crate::table::{Bound, Row};

/// How many requests each server answers, and how many before that do not count.
const REQUESTS: usize = 4000;
const BEFORE: usize = 500;

/// Two servers are asked in turn for the same thing: one needs no key and logs warnings, the other one needs a key, counts the
/// request against the key's rate and logs a line for it.
pub(crate) async fn run() -> Vec<Row> {
    let open = Server::start("latency-open").await;
    let keyed = Server::start_with("latency-keyed", &["--auth", "keys"]).await;
    let key = keyed.first_key();
    Api::new(open.url()).concept().await;
    Api::with_key(keyed.url(), Some(&key)).concept().await;
    let path = "/v1/concepts/rex";
    let mut without = Connection::open(&open.address(), path).await.unwrap();
    let mut with = Connection::open_with_key(&keyed.address(), path, Some(&key)).await.unwrap();
    let (mut alone, mut all) = (Vec::new(), Vec::new());
    for round in 0..BEFORE + REQUESTS {
        let without = milliseconds(&mut without).await;
        let with = milliseconds(&mut with).await;
        if round >= BEFORE {
            alone.push(without);
            all.push(with);
        }
    }
    let (alone, all) = (median(alone), median(all));
    let load = "GET of a concept, one after the other";
    vec![
        Row::new(load, "median without keys and access lines", alone, "ms", Bound::None),
        Row::new(load, "keys, limits and access lines add", all - alone, "ms", Bound::AtMost(0.3)),
    ]
}

async fn milliseconds(connection: &mut Connection) -> f64 {
    let began = Instant::now();
    assert_eq!(connection.ask().await.unwrap(), 200);
    began.elapsed().as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
