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

    // Options of the service may stand before a command that asks one, and before no other.
    let address = server.url();
    for args in [
        &["--json", "concepts"][..],
        &["--server", &address, "concepts", "--json"],
        &["--json", "-q", "concepts", "ls"],
    ] {
        let ran = server.run(args);
        assert_eq!(
            (ran.status, ran.stdout.get(..10)),
            (0, Some("{\"object\":")),
            "{args:?}: {ran:?}"
        );
    }
    let elsewhere = server.run(&["--server", "http://127.0.0.1:9", "queue"]);
    assert_eq!(elsewhere.status, 1, "{elsewhere:?}");
    for (args, option) in [
        (&["--server", &address, "serve"][..], "--server"),
        (&["--json", "work"], "--json"),
        (&["--quiet", "openapi"], "--quiet"),
        (&["--log-format", "json", "queue"], "--log-format"),
    ] {
        let ran = server.run(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{args:?}: {ran:?}");
        let named = format!("error: {option} is an option of commands that ");
        assert!(ran.stderr.starts_with(&named), "{ran:?}");
    }

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

    // No photo is taken: the concept is not created, and the same handle can be tried again.
    for (files, why) in [
        (&["README.md"][..], "the photo was rejected"),
        (&["README.md", "Cargo.toml"], "all 2 photos were rejected"),
    ] {
        let refused =
            server.run(&[&["concepts", "create", "tom", "--class", "cat"][..], files].concat());
        assert_eq!((refused.status, refused.stdout.as_str()), (3, ""), "{refused:?}");
        assert!(
            refused.stderr.contains("README.md: rejected: ")
                && refused.stderr.ends_with(&format!("error: {why}\n  tom was not created\n")),
            "{refused:?}"
        );
        assert_eq!(status(&["concepts", "show", "tom"]), 4);
    }
    // A training that cannot start leaves the concept, and says so.
    let untrained = server.run(&[
        "concepts",
        "create",
        "tom",
        "demo/concepts/cat",
        "--class",
        "cat",
        "--train",
        "--steps",
        "0",
    ]);
    assert_eq!(untrained.status, 3, "{untrained:?}");
    assert!(untrained.stderr.contains("`vstar train tom` teaches it"), "{untrained:?}");
    assert_eq!(status(&["concepts", "show", "tom"]), 0);

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
    assert_eq!(server.says(&["queue"]), "");
    assert_eq!(server.says(&["queue", "--ended"]), training);
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

#[tokio::test(flavor = "multi_thread")]
async fn one_thing_that_cannot_be_deleted_keeps_no_other() {
    let server = Server::start(&["--no-worker"]).await;
    server.says(&["concepts", "create", "rex", "demo/concepts/dog", "--class", "dog"]);
    server.says(&["concepts", "create", "max", "--class", "cat"]);
    server.says(&["train", "rex"]);

    let ran = server.run(&["concepts", "rm", "nobody", "rex", "max"]);

    assert_eq!((ran.status, ran.stdout.as_str()), (3, "max\n"), "{ran:?}");
    let said = ["nobody", "not_found", "concept_in_use"].map(|text| ran.stderr.find(text));
    assert!(said.iter().all(Option::is_some) && said.is_sorted(), "{ran:?}");
    let concepts = server.json("/v1/concepts").await;
    let left = concepts["data"].as_array().unwrap().iter().map(|concept| &concept["handle"]);
    assert_eq!(left.collect::<Vec<_>>(), ["rex"]);

    // Where nobody answers, the others are not tried.
    let nobody = ["--server", "http://127.0.0.1:9"];
    let ran = server.run(&[&["concepts", "rm", "rex", "max"][..], &nobody].concat());
    assert_eq!((ran.status, ran.stderr.matches("error:").count()), (1, 1), "{ran:?}");

    let (first, second) = (server.says(&["queue"]), server.says(&["train", "rex"]));
    let absent = first.replace(|c: char| c.is_ascii_digit(), "0");
    let ran = server.run(&["cancel", &absent, &first, &second]);
    assert_eq!((ran.status, ran.stdout), (4, format!("{first}\n{second}\n")));
    assert_eq!(server.says(&["queue", "--ended", "--limit", "1"]), second);
}
