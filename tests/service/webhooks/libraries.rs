//! The specification's own libraries verify what is sent, byte by byte, during a rotation too.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use sqlx::PgPool;

use super::receiver::{Behaviour, Receiver, Request};
use super::{endpoint, start};

/// Verifies a delivery from standard input: secret, headers, and the body in base64.
const PYTHON: &str = "
import base64, json, sys
from standardwebhooks import Webhook, WebhookVerificationError
given = json.load(sys.stdin)
try:
    said = Webhook(given['secret']).verify(base64.b64decode(given['body']), given['headers'])
except WebhookVerificationError as error:
    sys.exit(f'refused: {error}')
print(json.dumps(said))
";

const NODE: &str = "
const { Webhook } = require('standardwebhooks');
const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));
try {
    const body = Buffer.from(given.body, 'base64');
    console.log(JSON.stringify(new Webhook(given.secret).verify(body, given.headers)));
} catch (error) {
    console.error(`refused: ${error.message}`);
    process.exit(1);
}
";

fn tools() -> PathBuf {
    let repository = std::env::var_os("CARGO_MANIFEST_DIR");
    let repository = repository.unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    Path::new(&repository).join("target/standardwebhooks")
}

/// What both libraries read from a delivery, or `None` if they refuse it.
fn verified(request: &Request, secret: &str) -> Option<serde_json::Value> {
    let headers = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| (name.to_owned(), json!(request.header(name))));
    let given = json!({
        "secret": secret,
        "headers": serde_json::Map::from_iter(headers),
        "body": data_encoding::BASE64.encode(&request.body),
    });
    let by_python = run(
        Command::new("python3").env("PYTHONPATH", tools().join("python")).args(["-c", PYTHON]),
        &given,
    );
    let node_path = tools().join("node_modules");
    let by_node = run(Command::new("node").env("NODE_PATH", node_path).args(["-e", NODE]), &given);
    assert_eq!(by_python, by_node, "the libraries agree");
    by_python
}

fn run(command: &mut Command, given: &serde_json::Value) -> Option<serde_json::Value> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Some(serde_json::from_slice(&output.stdout).unwrap()),
        false => {
            assert!(said.starts_with("refused"), "run make webhook-libraries: {said}");
            None
        }
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_libraries_of_the_specification_verify_deliveries(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (path, first) = endpoint(&service, &receiver.url()).await;

    service.post(&format!("{path}/test"), json!({})).await;
    receiver.wait_for(1).await;
    let second = service.post(&format!("{path}/rotate-secret"), json!({})).await.text("secret");
    service.post(&format!("{path}/test"), json!({})).await;
    receiver.wait_for(2).await;
    let over = sqlx::query(
        "update webhook_endpoint set previous_secret_until = now() - interval '1 second'",
    );
    over.execute(&db).await.unwrap();
    service.post(&format!("{path}/test"), json!({})).await;
    receiver.wait_for(3).await;

    let requests = receiver.requests();
    let reads = |index: usize, secret: &str| verified(&requests[index], secret).is_some();
    assert_eq!(verified(&requests[0], &first), Some(requests[0].json()));
    assert_eq!((reads(0, &first), reads(0, &second)), (true, false), "before the rotation");
    assert_eq!((reads(1, &first), reads(1, &second)), (true, true), "while both are live");
    assert_eq!((reads(2, &first), reads(2, &second)), (false, true), "after it");
    assert_eq!(requests[1].header("webhook-signature").split(' ').count(), 2);
    let mut changed = requests[0].clone();
    changed.body.push(b' ');
    assert_eq!(verified(&changed, &first), None, "the exact bytes are signed");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_secret_that_the_owner_brings_is_used(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let body = json!({ "url": receiver.url(), "secret": secret });
    let created = service.post("/v1/webhook-endpoints", body).await;

    service.post(&format!("{}/test", created.header("location")), json!({})).await;
    receiver.wait_for(1).await;

    assert_eq!(created.text("secret"), secret);
    assert!(verified(&receiver.requests()[0], secret).is_some());
}
