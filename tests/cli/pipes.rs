//! Scripts: the service's JSON unchanged, ids alone, readers that leave early, full disks, completions, manual pages.

use serde_json::{Value, json};

use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_what_they_ask_for() {
    let server = Server::start(&["--no-worker"]).await;
    for (handle, class) in [("rex", "dog"), ("max", "cat"), ("ann", "robot")] {
        server.says(&["concepts", "create", handle, "--class", class, "--metadata", "of=test"]);
    }
    server.says(&["concepts", "add", "rex", "demo/concepts/dog"]);
    server.says(&["concepts", "edit", "rex", "--external-id", "dog 1"]);
    let training = server.says(&["train", "rex", "--seed", "9007199254740991"]);

    // With --json: the service's answer, byte for byte.
    for (args, path) in [
        (&["concepts", "--json"][..], "/v1/concepts?limit=20"),
        (&["concepts", "ls", "--json", "--limit", "2"], "/v1/concepts?limit=2"),
        (&["concepts", "show", "rex", "--json"], "/v1/concepts/rex"),
        (&["concepts", "check", "rex", "--json"], "/v1/concepts/rex/check"),
        (&["check", "rex", "--json"], "/v1/concepts/rex/check"),
        (&["deltas", "--json"], "/v1/deltas?limit=20"),
        (&["webhooks", "--json"], "/v1/webhook-endpoints?limit=20"),
    ] {
        assert_eq!(server.says(args), server.body(path).await, "{args:?}");
    }
    let queue: Value = serde_json::from_str(&server.says(&["queue", "--json"])).unwrap();
    let job = server.json(&format!("/v1/trainings/{training}")).await;
    assert_eq!((queue["data"].as_array().unwrap().len(), &queue["data"][0]), (1, &job));
    assert_eq!(job["seed"], 9_007_199_254_740_991_u64);
    let dry: Value =
        serde_json::from_str(&server.says(&["train", "rex", "--dry-run", "--json"])).unwrap();
    assert!(dry["estimate"].is_object(), "{dry}");

    // Ids alone; page by page they are those of the whole list.
    let ids = server.says(&["concepts", "ls"]);
    let expected = server.json("/v1/concepts").await;
    let expected: Vec<&str> = expected["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.lines().collect::<Vec<_>>(), expected);
    let first = server.run(&["concepts", "ls", "--limit", "2"]);
    assert_eq!(first.stdout.lines().collect::<Vec<_>>(), expected[..2]);
    let cursor = first.stderr.trim().rsplit(' ').next().unwrap();
    assert_eq!(server.says(&["concepts", "ls", "--after", cursor]), expected[2]);
    let one = server.says(&["concepts", "ls", "--external-id", "dog 1"]);
    assert_eq!(server.json(&format!("/v1/concepts/{one}")).await["handle"], "rex");

    let cats = server.says(&["concepts", "ls", "--search", "cat"]);
    assert_eq!(server.json(&format!("/v1/concepts/{cats}")).await["handle"], "max");

    // A reader that has seen enough.
    for line in [
        "vstar --help | head -1",
        "vstar openapi | head -1",
        "vstar openapi | true",
        "vstar concepts ls | head -1",
        "vstar concepts --json | true",
        "vstar deltas --json | head -1",
        "vstar queue | true",
        "vstar completions bash | head -1",
        "vstar completions zsh | true",
    ] {
        let ran = server.bash(line);
        assert!([0, 141].contains(&ran.status) && ran.stderr.is_empty(), "{line}: {ran:?}");
    }
    // Leaving does not cancel.
    server.bash(&format!("timeout 2 vstar watch {training} | head -2"));
    assert_eq!(server.json(&format!("/v1/trainings/{training}")).await["status"], "queued");

    // A full disk is no reader that has gone.
    for line in
        ["vstar openapi > /dev/full", "vstar concepts > /dev/full", "vstar --help > /dev/full"]
    {
        let ran = server.bash(line);
        assert_eq!((ran.status, ran.stderr.lines().count()), (1, 1), "{line}: {ran:?}");
        assert!(ran.stderr.contains("No space left"), "{ran:?}");
    }

    // A proxy below a path.
    let below = server.run(&["concepts", "ls", "--server", &format!("{}/below", server.url())]);
    assert_eq!(below.status, 4, "{below:?}");
    assert!(below.stderr.contains("/below/v1/concepts"), "{below:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_managed() {
    let server = Server::start(&["--no-worker", "--allow-private-webhooks"]).await;
    let secret = server.says(&[
        "webhooks",
        "create",
        "http://127.0.0.1:9/hook",
        "--event",
        "training.succeeded",
    ]);
    assert!(secret.starts_with("whsec_"), "{secret}");
    let id = server.says(&["webhooks"]);
    server.says(&["webhooks", "edit", &id, "--disable"]);
    let endpoint = server.json(&format!("/v1/webhook-endpoints/{id}")).await;
    assert_eq!(
        (&endpoint["enabled"], &endpoint["event_types"]),
        (&json!(false), &json!(["training.succeeded"]))
    );
    server.says(&["webhooks", "edit", &id, "--enable"]);
    let delivery = server.says(&["webhooks", "test", &id]);
    assert_eq!(server.says(&["webhooks", "deliveries", &id]), delivery);
    assert_ne!(server.says(&["webhooks", "rotate-secret", &id]), secret);
    assert_eq!(server.says(&["webhooks", "rm", &id]), id);
    assert_eq!(server.says(&["webhooks"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_and_manuals_know_every_command() {
    let server = Server::start(&["--no-worker"]).await;

    let bash =
        server.bash("source <(vstar completions bash) && complete -p vstar && declare -f _vstar");
    assert_eq!(bash.status, 0, "{bash:?}");
    for word in ["concepts", "--watch", "doctor", "serve"] {
        assert!(bash.stdout.contains(word), "{word}");
    }
    let man = server.path("man");
    server.says(&["man", man.to_str().unwrap()]);
    for page in ["vstar.1", "vstar-train.1", "vstar-concepts-create.1", "vstar-serve.1"] {
        let page = std::fs::read_to_string(man.join(page)).unwrap();
        assert!(page.contains(".TH vstar") && page.contains(".SH \"EXIT STATUS\""), "{page}");
    }

    // What asks a service stands apart from what runs one.
    let help = server.says(&["--help"]);
    let place = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text}: {help}"));
    assert!(
        place("\n  train ") < place("Running a service:")
            && place("Running a service:") < place("\n  serve ")
    );

    // Log lines are the server's.
    let logs = |command: &str| server.says(&[command, "--help"]).contains("--log-format");
    assert!(logs("serve") && logs("work") && logs("gc") && !logs("queue") && !logs("doctor"));

    // What is missing here, with the remedy.
    let data = server.path("other");
    let data = data.to_str().unwrap();
    let doctor = server.run(&["doctor", "--data-dir", data, "--listen", "127.0.0.1:0"]);
    assert_eq!(doctor.status, 0, "{doctor:?}");
    assert!(doctor.stdout.contains("answers: vstar"), "{doctor:?}");
    let sick = server.run(&[
        "doctor",
        "--data-dir",
        data,
        "--base-model",
        "/nowhere",
        "--pg-bin",
        "/nowhere",
    ]);
    assert_eq!(sick.status, 1, "{sick:?}");
    for remedy in ["--base-model", "--pg-bin", "apt-get install postgresql"] {
        assert!(sick.stdout.contains(remedy), "{remedy}: {sick:?}");
    }
    assert!(!std::path::Path::new(data).exists(), "doctor makes nothing");

    // A port that is taken: by a service, and by something else.
    let doctor = |listen: &str| server.run(&["doctor", "--data-dir", data, "--listen", listen]);
    let taken = doctor(server.url().trim_start_matches("http://"));
    assert!(taken.status == 0 && taken.stdout.contains("a vstar service listens on"), "{taken:?}");
    let other = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = other.local_addr().unwrap().to_string();
    drop(std::thread::spawn(move || other.accept()));
    let taken = doctor(&address);
    assert_eq!(taken.status, 1, "{taken:?}");
    assert!(
        taken.stdout.contains(&format!("--listen {address}: another program has it")),
        "{taken:?}"
    );
}
