//! At a terminal: tables, colours, Ctrl-C, and a server that goes away meanwhile.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::server::{Ran, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_tables_and_is_asked() {
    let server = Server::start(&["--no-worker"]).await;
    server.says(&["concepts", "create", "rex", "demo/concepts/dog", "--class", "dog"]);
    let training = server.says(&["train", "rex"]);
    let status = async || server.json(&format!("/v1/trainings/{training}")).await["status"].clone();

    let table = server.on_a_terminal(&["concepts", "ls"], json!({}), json!([]));
    assert_eq!(table.status, 0, "{table:?}");
    assert!(table.stdout.contains("\x1b[1mhandle") && table.stdout.contains("<rex>"), "{table:?}");
    for plain in [json!({ "NO_COLOR": "1" }), json!({ "TERM": "dumb" })] {
        for args in [&["concepts", "ls"][..], &["queue"], &["--help"]] {
            let plain = server.on_a_terminal(args, plain.clone(), json!([]));
            assert!(plain.status == 0 && !plain.stdout.contains('\x1b'), "{plain:?}");
        }
    }
    let kept = server.on_a_terminal(
        &["concepts", "rm", "rex"],
        json!({}),
        json!([["expect", "delete rex?"], ["send", "n\n"]]),
    );
    assert_eq!(kept.status, 0, "{kept:?}");
    assert!(kept.stdout.contains("rex stays"), "{kept:?}");

    // Ctrl-C asks. Going on, leaving, leaving by a second Ctrl-C, canceling.
    let watch = ["watch", training.as_str()];
    let ask = |answers: &[&str]| {
        let mut steps = vec![json!(["expect", "queued"])];
        for answer in answers {
            steps.extend([json!(["send", "\x03"]), json!(["expect", "cancel trn_"])]);
            steps.push(json!(["send", answer]));
            // Ctrl-C discards what was typed and not read yet.
            steps.push(json!(["pause", 1]));
        }
        server.on_a_terminal(&watch, json!({}), json!(steps))
    };
    for answers in [&["d\n"][..], &["n\n", "d\n"], &["\x03"]] {
        let left = ask(answers);
        assert_eq!(left.status, 130, "{left:?}");
        assert!(left.stdout.contains(&format!("vstar watch {training}")), "{left:?}");
        assert_eq!(status().await, "queued");
    }
    let canceled = ask(&["y\n"]);
    assert_eq!(canceled.status, 8, "{canceled:?}");
    assert_eq!(status().await, "canceled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_is_interrupted_leaves_the_job_and_one_that_waits_survives_a_restart() {
    let mut server = Server::start(&["--no-worker"]).await;
    server.says(&["concepts", "create", "rex", "demo/concepts/dog", "--class", "dog"]);
    let training = server.says(&["train", "rex"]);
    let path = format!("/v1/trainings/{training}");

    let mut watch = server.client(&["watch", &training]);
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    // SAFETY: the process is a child that has not been waited for, so its id is still its own.
    unsafe { libc::kill(watch.id() as i32, libc::SIGINT) };
    let left = Ran::of(watch.wait_with_output().unwrap());
    assert_eq!((left.status, left.stdout.as_str()), (130, ""), "{left:?}");
    assert!(left.stderr.contains(&format!("`vstar watch {training}` shows it")), "{left:?}");
    assert_eq!(server.json(&path).await["status"], "queued");

    let mut watch = server.client(&["watch", &training]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.killed_and_started().await;
    assert!(watch.try_wait().unwrap().is_none(), "it still waits");
    server.says(&["cancel", &training]);
    let began = Instant::now();
    while watch.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ended = Ran::of(watch.wait_with_output().unwrap());
    assert_eq!(ended.status, 8, "{ended:?}");
    assert!(ended.stderr.contains("does not answer"), "{ended:?}");
}
