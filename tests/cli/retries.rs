//! When a request is sent again: against a server that answers what the test has written down.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use serde_json::{Value, json};
use vstar::client::{Client, Method, Refused, Unanswered};

const LOST: &str = "";
const CREATED: &str = "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 14\r\nconnection: close\r\n\r\n{\"id\":\"cpt_1\"}";

/// A refusal with a code.
fn refusal(status: u16, code: &str, retryable: bool) -> String {
    let body =
        json!({ "code": code, "detail": "no", "errors": [], "retryable": retryable }).to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status} No\r\nretry-after: 0\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// Answers one connection after the other, and returns the idempotency keys that came.
fn server(answers: Vec<String>) -> (String, JoinHandle<Vec<Option<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let mut keys = Vec::new();
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut key, mut length) = (None, 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let Some((name, value)) = line.trim().split_once(": ") else {
                    match line.trim().is_empty() {
                        true => break,
                        false => continue, // the request line
                    }
                };
                match name.to_ascii_lowercase().as_str() {
                    "idempotency-key" => key = Some(value.to_owned()),
                    "content-length" => length = value.parse().unwrap(),
                    _ => {}
                }
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            keys.push(key);
            reader.into_inner().write_all(answer.as_bytes()).unwrap();
        }
        keys
    });
    (address, serving)
}

fn client(address: &str) -> Client {
    Client::with_key(address, None)
}

#[tokio::test]
async fn what_creates_something_is_sent_again_under_its_key() {
    let busy = refusal(503, "overloaded", true);
    let (address, serving) = server(vec![LOST.into(), busy, CREATED.into(), CREATED.into()]);
    let client = client(&address);

    let first = client.post("/v1/concepts", &json!({ "handle": "rex" })).await.unwrap();
    client.post("/v1/concepts", &json!({ "handle": "max" })).await.unwrap();

    assert_eq!(first["id"], "cpt_1");
    let keys = serving.join().unwrap();
    assert!(keys[0].is_some() && keys[0] == keys[1] && keys[1] == keys[2], "{keys:?}");
    assert_ne!(keys[2], keys[3], "another request has another key");
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_and_a_refusal_that_stays_are_not_sent_again() {
    let (address, serving) = server(vec![LOST.into()]);
    let lost =
        client(&address).change(Method::POST, "/v1/concepts/rex/rollback", &Value::Null).await;
    assert!(lost.unwrap_err().is::<Unanswered>());
    assert_eq!(serving.join().unwrap(), [None]);

    for (status, code, retryable) in [
        (422, "out_of_range", false),
        (429, "quota_exceeded", true),
        (500, "internal_error", false),
    ] {
        let (address, serving) = server(vec![refusal(status, code, retryable)]);
        let refused = client(&address).post("/v1/samples", &json!({})).await.unwrap_err();
        assert_eq!(refused.downcast_ref::<Refused>().unwrap().code(), code);
        assert_eq!(serving.join().unwrap().len(), 1);
    }

    // Followed, it would lose the key and make a GET of the POST.
    let moved = "HTTP/1.1 301 Moved\r\nlocation: https://a.example/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (address, serving) = server(vec![moved.into()]);
    let refused = client(&address).post("/v1/samples", &json!({})).await.unwrap_err();
    let refused = refused.downcast_ref::<Refused>().unwrap();
    assert_eq!(
        (&*refused.address, refused.location.as_deref()),
        (&*address, Some("https://a.example/"))
    );
    assert_eq!(serving.join().unwrap().len(), 1);
}
