//! What one request can cost: time, memory, and the words of the answer.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vstar::app::upload_memory::UploadLimits;

use crate::harness::{DIGEST, Service, png};

/// Sends the beginning of a form and then `filler` for ever, until the service closes the connection. Returns the bytes
/// that it has taken and what it has answered.
async fn send_without_end(service: &Service, beginning: &str, filler: u8) -> (usize, String) {
    let address = service.address().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/images HTTP/1.1\r\nhost: {address}\r\ncontent-type: multipart/form-data; boundary=b\r\n\
         content-length: 500000000\r\n\r\n{beginning}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let block = vec![filler; 4096];
    let mut taken = 0;
    let mut answer = vec![0; 4096];
    loop {
        tokio::select! {
            biased;
            read = reader.read(&mut answer) => {
                let read = read.unwrap_or(0);
                return (taken, String::from_utf8_lossy(&answer[..read]).into_owned());
            }
            written = writer.write(&block) => match written {
                Ok(count) => taken += count,
                Err(_) => return (taken, String::new()),
            }
        }
        assert!(taken < 64 << 20, "the service goes on reading");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_form_that_never_comes_to_a_part_is_ended(db: PgPool) {
    let service = Service::start(db).await;

    for beginning in [
        "",
        "--b\r\ncontent-disposition: form-data; name=\"",
        "--b\r\ncontent-disposition: form-data; name=\"file\"\r\nx: ",
    ] {
        let (taken, answer) = send_without_end(&service, beginning, b'a').await;

        // What the sockets hold is taken as well.
        assert!(taken < 16 << 20, "{beginning:?}: {taken} bytes");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{beginning:?}: {answer}");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_name_of_a_part_is_not_repeated_whole(db: PgPool) {
    let service = Service::start(db).await;
    let name = "n".repeat(20_000);
    let form =
        format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\nx\r\n--b--\r\n");

    let request = service
        .request(Method::POST, "/v1/images")
        .header("content-type", "multipart/form-data; boundary=b")
        .body(form);
    let answer = service.send(request).await;

    assert_eq!((answer.problem().0, answer.problem().1), (422, "unknown_field"));
    assert!(answer.bytes.len() < 2000, "{} bytes", answer.bytes.len());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_form_may_come_byte_by_byte(db: PgPool) {
    let service = Service::start(db).await;
    let file = png(32, 32, 1);
    let mut form =
        b"--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n\r\n"
            .to_vec();
    form.extend(&file);
    form.extend(b"\r\n--b--\r\n");
    let address = service.address().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();

    let head = format!(
        "POST /v1/images HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: multipart/form-data; boundary=b\r\ncontent-length: {}\r\n\r\n",
        form.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for byte in &form {
        stream.write_all(std::slice::from_ref(byte)).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

/// Fields that a client may fill with whatever it likes, filled as badly as 1 MiB allows.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn no_request_takes_long_to_be_refused(db: PgPool) {
    let service = Service::with_evaluator(db).await;
    let (rex, _) = service.trained_concept("rex", DIGEST).await;
    service.trained_concept("ted", DIGEST).await;
    service.concept("gate", None, "gate").await;
    service.concept_with_photos("yard", 4).await;
    // 100,000 different modifier tokens.
    let tokens: String = (0..100_000).map(|i| format!("<{i:06}>")).collect();
    let nouns = "gate ".repeat(200_000);
    let two = json!([{ "concept": "rex" }, { "concept": "ted" }]);
    let many: Vec<Value> = (0..20_000).map(|_| json!({ "concept": rex })).collect();
    let handles: Vec<String> = (0..50_000).map(|i| format!("c{i}")).collect();
    let unknown: serde_json::Map<String, Value> = (0..30_000)
        .map(|i| (format!("x{i:05}"), json!(0)))
        .chain([("initializer_tokens".to_owned(), json!(vec!["a"; 100_000]))])
        .collect();
    let regions: Vec<Value> = (0..9000)
        .map(|_| json!({ "concept": "rex", "box": [0, 0, 1, 1], "prompt": "<a> <b>" }))
        .collect();
    let subject = || json!({ "concepts": [{ "concept": "rex" }] });

    for (what, path, body, code) in [
        ("prompt", "samples", json!({ "prompt": tokens }), "prompt_too_long"),
        (
            "negative_prompt",
            "samples",
            json!({ "prompt": "a dog", "negative_prompt": tokens }),
            "prompt_too_long",
        ),
        ("concepts", "samples", json!({ "prompt": "a dog", "concepts": many }), "too_many_deltas"),
        (
            "layout_prompt",
            "samples",
            json!({ "prompt": "a dog", "concepts": two, "composition": { "layout_prompt": tokens } }),
            "prompt_too_long",
        ),
        (
            "regions",
            "samples",
            json!({ "prompt": "a dog", "concepts": two, "composition": { "regions": regions } }),
            "out_of_range",
        ),
        (
            "region",
            "samples",
            json!({ "prompt": "a dog", "concepts": two,
                "composition": { "regions": [{ "concept": "rex", "box": [0, 0, 1, 1], "prompt": tokens }] } }),
            "prompt_too_long",
        ),
        ("merge", "merges", json!({ "concepts": many }), "too_many_deltas"),
        (
            "captions",
            "merges",
            json!({ "concepts": two, "captions": vec![tokens[..50_000].to_owned(); 20] }),
            "out_of_range",
        ),
        (
            "caption",
            "merges/check",
            json!({ "concepts": two, "captions": vec![tokens[..9_000].to_owned(); 20] }),
            "prompt_too_long",
        ),
        (
            "recipe",
            "trainings",
            json!({ "concepts": ["yard"], "recipe": unknown }),
            "unknown_field",
        ),
        ("handles", "trainings", json!({ "concepts": handles }), "out_of_range"),
        (
            "templates",
            "trainings",
            json!({ "concepts": ["yard"], "recipe": { "instance_templates": vec!["{}"; 100_000] } }),
            "validation_failed",
        ),
        (
            "prompts",
            "evaluations",
            json!({ "subjects": [subject()], "prompts": vec!["a {}"; 50_000] }),
            "out_of_range",
        ),
        (
            "nouns",
            "evaluations",
            json!({ "subjects": [subject()], "concepts": ["gate"], "prompts": [nouns] }),
            "prompt_too_long",
        ),
        (
            "subjects",
            "evaluations",
            json!({ "subjects": vec![subject(); 10_000], "prompts": ["a {}"] }),
            "out_of_range",
        ),
        (
            "subject",
            "evaluations",
            json!({ "subjects": [{ "concepts": many }], "prompts": ["a dog"] }),
            "too_many_deltas",
        ),
    ] {
        let began = Instant::now();

        let answer = service.post(&format!("/v1/{path}"), body).await;

        assert_eq!((answer.problem().0, answer.problem().1), (422, code), "{what}: {answer:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{what} took {:?}", began.elapsed());
        assert!(answer.bytes.len() < 100_000, "{what}: {} bytes", answer.bytes.len());
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_text_with_u_0000_is_the_clients_error_wherever_it_stands(db: PgPool) {
    let service = Service::with_evaluator(db).await;
    service.trained_concept("rex", DIGEST).await;
    service.concept_with_photos("yard", 4).await;
    let nul = "a\0b";

    for (path, body, pointer) in [
        ("concepts", json!({ "handle": nul, "class_noun": "dog" }), "/handle"),
        ("samples", json!({ "prompt": nul }), "/prompt"),
        ("samples", json!({ "prompt": "a", "negative_prompt": nul }), "/negative_prompt"),
        (
            "trainings",
            json!({ "concepts": ["yard"], "regularization": { "source": "set", "set": nul } }),
            "/regularization/set",
        ),
        (
            "trainings",
            json!({ "concepts": ["yard"], "recipe": { "small_prefixes": ["x", nul] } }),
            "/recipe/small_prefixes/1",
        ),
        (
            "evaluations",
            json!({ "subjects": [{ "name": nul, "base": true }], "prompts": ["a dog"] }),
            "/subjects/0/name",
        ),
    ] {
        let answer = service.post(&format!("/v1/{path}"), body).await;
        assert_eq!(answer.problem(), (422, "invalid_value", vec![pointer]), "{path}");
    }
    for path in ["/v1/concepts/a%00b", "/v1/image-sets/a%00b", "/votes/a%00b"] {
        assert_eq!(service.get(path).await.problem().0, 404, "{path}");
    }
    assert_eq!(service.get("/v1/deltas?concept=a%00b").await.problem().0, 422);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn uploads_that_a_slow_store_holds_up_do_not_pile_up(db: PgPool) {
    let limits = UploadLimits {
        decoding_bytes: 2 << 20,
        patience: Duration::from_millis(300),
        ..UploadLimits::default()
    };
    let service = Service::start(db).await.limiting_uploads(limits).await;
    service.store.stall("uploads");

    let uploads = (0..6).map(|shade| service.upload_image(png(64, 64, shade)));
    let all = futures::future::join_all(uploads);
    let heal = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        service.store.heal();
    };
    let (answers, ()) = tokio::join!(all, heal);

    let stored = answers.iter().filter(|answer| answer.status == 201).count();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert_eq!((stored, refused.len()), (2, 4), "{answers:?}");
    for answer in refused {
        assert_eq!((answer.problem().1, answer.header("retry-after")), ("overloaded", "5"));
        assert_eq!(answer.body["retryable"], true);
    }
    assert_eq!(service.upload_image(png(64, 64, 9)).await.status, 201);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn files_that_arrive_take_no_more_memory_than_there_is_for_them(db: PgPool) {
    let limits = UploadLimits {
        received_bytes: 4 << 20,
        patience: Duration::from_millis(300),
        ..UploadLimits::default()
    };
    let service = Service::start(db).await.limiting_uploads(limits).await;
    service.concept("rex", None, "dog").await;
    let before = service.contents().await;

    // What begins like an image is kept until it is whole; anything else is not.
    let file = |size: usize| [b"\x89PNG\r\n\x1a\n".to_vec(), vec![0; size]].concat();

    let small = service.upload_image(file(3 << 20)).await;
    let large = service.upload_image(file(5 << 20)).await;
    let zeros = service.upload_image(vec![0; 15 << 20]).await;
    let photos = vec![("a.png", png(64, 64, 1)), ("b.png", file(5 << 20))];
    let photos = service.upload("/v1/concepts/rex/images", photos).await;
    let again = service.upload_image(file(3 << 20)).await;

    assert_eq!(small.problem().1, "image_unreadable", "it had arrived whole, and was looked at");
    assert_eq!((large.problem().0, large.problem().1), (503, "overloaded"));
    assert_eq!(zeros.problem().1, "image_unreadable");
    assert_eq!((photos.problem().0, photos.problem().1), (503, "overloaded"));
    assert_eq!(again.problem().1, "image_unreadable", "its room was given back");
    assert_eq!(service.contents().await, before);
}
