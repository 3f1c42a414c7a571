//! Each cause has its exit status, and what is wrong is said in one place.

use std::time::Duration;

use serde_json::json;

use crate::server::{Ran, Server, program};

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_has_its_exit_status() {
    let server = Server::start(&["--no-worker"]).await;
    let status = |args: &[&str]| server.run(args).status;
    let create = ["concepts", "create", "rex", "demo/concepts/dog", "--class", "dog"];
    assert_eq!(status(&create), 0);

    // What is wrong with the command line costs no request.
    for wrong in [
        &["train"][..],
        &["train", "rex", "--seed", "9007199254740992"],
        &["train", "rex", "--seed", "5400121572116419000"],
        &["train", "rex", "--seed", "-1"],
        &["train", "rex", "--seed", "1e3"],
        &["train", "rex", "--seed", " 7 "],
        &["train", "rex", "--seed", ""],
        &["sample", "a dog", "--guidance", "1,500"],
        &["concepts", "ls", "--server", "localhost:8080"],
        &["watch", "rex"],
        &["concepts", "show", "../deltas"],
        &["concepts", "edit", "rex"],
        &["concepts", "add", "rex", "no-such-file.jpg"],
    ] {
        let ran = server.run(wrong);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{wrong:?}: {ran:?}");
    }
    assert_eq!(server.json("/v1/trainings").await["data"], json!([]));

    // What the service refuses is told with its code and field.
    let taken = server.run(&create);
    assert_eq!(taken.status, 3);
    assert!(taken.stderr.contains("handle_taken") && taken.stderr.contains("/handle"), "{taken:?}");
    for (args, expected) in [
        (&["train", "rex", "--steps", "0"][..], 3),
        (&["train", "nope"], 4),
        (&["concepts", "show", "nope"], 4),
        (&["watch", "trn_00000000000000000000000000"], 4),
    ] {
        let ran = server.run(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (expected, ""), "{args:?}: {ran:?}");
        assert!(ran.stderr.starts_with("error: "), "{ran:?}");
    }

    // Some photos are taken and one is not: the concept is there, and nothing is trained.
    let broken = server.path("broken.jpg");
    std::fs::write(&broken, "no image").unwrap();
    let partly = server.run(&[
        "concepts",
        "create",
        "max",
        "demo/concepts/cat",
        broken.to_str().unwrap(),
        "--class",
        "cat",
        "--train",
    ]);
    assert_eq!(partly.status, 3, "{partly:?}");
    assert!(
        partly.stderr.contains("broken.jpg: rejected") && partly.stderr.contains("vstar train max")
    );
    assert_eq!(server.json("/v1/trainings").await["data"], json!([]));

    // Jobs: canceled, too late, and too long for the one who waits.
    let training = server.says(&["train", "rex"]);
    let late = server.run(&["watch", &training, "--timeout", "0,2"]);
    assert_eq!(late.status, 9, "{late:?}");
    assert!(late.stderr.contains(&format!("vstar watch {training}")), "{late:?}");
    assert_eq!(server.says(&["queue"]), training);
    assert_eq!(server.says(&["cancel", &training]), training);
    assert_eq!(status(&["watch", &training]), 8);
    assert_eq!(status(&["train", "rex", "--watch", "--finish-within", "1"]), 9);

    // Nobody there.
    let mut nobody = program(&["queue", "--server", "http://127.0.0.1:9"]);
    let nobody = Ran::of(nobody.output().unwrap());
    assert_eq!(nobody.status, 1);
    assert!(
        nobody.stderr.contains("vstar serve") && nobody.stderr.contains("VSTAR_URL"),
        "{nobody:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_open_what_they_may() {
    let mut server = Server::start(&["--no-worker", "--auth", "keys"]).await;
    let admin = server.key.take().expect("the first key is shown");

    let without = server.run(&["concepts", "ls"]);
    assert_eq!(without.status, 5);
    assert!(without.stderr.contains("VSTAR_API_KEY"), "{without:?}");

    server.key = Some(admin.clone());
    let secret = server.says(&["keys", "create", "a reader", "--scope", "read"]);
    let me = server.says(&["keys", "me"]);
    assert!(me.contains("admin"), "{me}");
    let keys = server.says(&["keys", "--json", "--quiet"]);
    assert!(keys.contains("a reader") && !keys.contains("secret\":\"vstar"), "{keys}");

    server.key = Some(secret);
    assert_eq!(server.run(&["concepts", "ls"]).status, 0);
    let refused = server.run(&["concepts", "create", "rex", "--class", "dog"]);
    assert_eq!(refused.status, 5, "{refused:?}");

    // A quota that is used up.
    server.key = Some(admin.clone());
    let project = server.json("/v1/me").await["project"]["id"].as_str().unwrap().to_owned();
    let patched = reqwest::Client::new()
        .patch(format!("{}/v1/projects/{project}", server.url()))
        .bearer_auth(&admin)
        .json(&json!({ "max_concepts": 0 }))
        .timeout(Duration::from_secs(30))
        .send()
        .await
        .unwrap();
    assert!(patched.status().is_success(), "{patched:?}");
    let refused = server.run(&["concepts", "create", "rex", "--class", "dog"]);
    assert_eq!(refused.status, 6, "{refused:?}");
    assert!(refused.stderr.contains("quota_exceeded"), "{refused:?}");
}
