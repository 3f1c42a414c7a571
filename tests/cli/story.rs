//! README's story by command line, on `tiny`.

use std::path::Path;

use crate::server::Server;

/// A training that is as short as it can be.
const SHORT: [&str; 6] = [
    "--steps",
    "5",
    "--recipe",
    r#"{"num_class_images":8,"initializer_candidates":[]}"#,
    "--seed",
    "1",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_concept_is_taught_and_drawn_by_command_line() {
    let server = Server::start(&[]).await;
    let file = |name: &str| server.path(name).display().to_string();

    // In a pipe, standard output has the concept's id alone; what is going on is told beside it.
    let create =
        ["concepts", "create", "rex", "demo/concepts/dog", "--class", "dog", "--train", "--watch"];
    let created = server.run(&[&create[..], &SHORT].concat());
    assert_eq!(created.status, 0, "{created:?}");
    let concept = server.json("/v1/concepts/rex").await;
    assert_eq!(created.stdout, format!("{}\n", concept["id"].as_str().unwrap()));
    assert_eq!(concept["modifier_token"], "<rex>");
    assert!(created.stderr.contains("photos uploaded"), "{created:?}");
    assert!(created.stderr.contains("succeeded in"), "{created:?}");
    let training = &server.json("/v1/trainings").await["data"][0];
    assert_eq!((&training["seed"], &training["recipe"]["max_train_steps"]), (&1.into(), &5.into()));

    // The largest seed comes back as it was given, also from the file.
    let out = file("out");
    let largest = "9007199254740991";
    let ids = server.says(&[
        "sample",
        "photo of a <rex> dog on the beach",
        "-n",
        "2",
        "--steps",
        "2",
        "--guidance",
        "7,5",
        "--seed",
        largest,
        "-o",
        &out,
    ]);
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 2);
    let manifest = server.body(&format!("/v1/images/{}/manifest", ids[1])).await;
    assert!(manifest.contains(&format!("\"seed\":{largest}")), "{manifest}");
    assert!(manifest.contains("\"guidance_scale\":7.5"), "{manifest}");
    let image = Path::new(&out).join(format!("{}.png", ids[1]));
    let verified = server.run(&["replay", "--verify", image.to_str().unwrap()]);
    assert_eq!(verified.status, 0, "{verified:?}");
    let again = file("again.png");
    server.says(&["sample", "--from", image.to_str().unwrap(), "-o", &again]);
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&image).unwrap());

    // A sample that was not waited for.
    let detached = server.says(&["sample", "photo of a <rex> dog", "--steps", "2", "--detach"]);
    let late = file("late/rex.png");
    assert!(server.says(&["watch", &detached, "-o", &late]).starts_with("img_"));
    assert!(std::fs::read(&late).unwrap().starts_with(b"\x89PNG"));
    // What cannot be saved is not generated.
    let samples = server.json("/v1/samples").await["data"].as_array().unwrap().len();
    let nowhere = server.run(&["sample", "a dog", "-o", &format!("{late}/out")]);
    assert_eq!(nowhere.status, 1, "{nowhere:?}");
    assert_eq!(server.json("/v1/samples").await["data"].as_array().unwrap().len(), samples);

    // A second concept; the two together.
    server.says(&["concepts", "create", "urn", "demo/concepts/vase", "--class", "vase"]);
    let training = server.says(&[&["train", "urn", "--watch"], &SHORT[..]].concat());
    assert_eq!(server.json(&format!("/v1/trainings/{training}")).await["status"], "succeeded");
    let checked = server.says(&["check", "rex", "urn@0,8"]);
    assert!(checked.contains("overlap"), "{checked}");
    let delta = server.says(&["merge", "rex", "urn"]);
    let merged = server.says(&["deltas", "show", &delta]);
    assert!(merged.contains("rex, urn") || merged.contains("urn, rex"), "{merged}");
    let weights = file("both.safetensors");
    server.says(&["deltas", "download", &delta, "-o", &weights]);
    let size = std::fs::metadata(&weights).unwrap().len();
    assert_eq!(server.json(&format!("/v1/deltas/{delta}")).await["size_bytes"], size);

    let small = server.says(&["deltas", "compress", &delta, "--energy", "0,6"]);
    let small = server.json(&format!("/v1/deltas/{small}")).await;
    assert!(small["size_bytes"].as_u64().unwrap() < size, "{small}");

    // An evaluation, with its files.
    let folder = file("evaluation");
    let evaluation = server.says(&[
        "evaluate",
        "--subject",
        "rex",
        "--prompt",
        "photo of a {}",
        "--images-per-prompt",
        "1",
        "--num-inference-steps",
        "2",
        "--out",
        &folder,
    ]);
    assert!(evaluation.starts_with("evl_") && !evaluation.contains('\n'), "{evaluation}");
    for name in ["report.json", "sheet.png", "alignment.svg"] {
        assert!(Path::new(&folder).join(name).is_file(), "{name}");
    }

    // A job that fails says so by its status: here, because its photos are gone.
    let lost = server.says(&["concepts", "create", "lost", "demo/concepts/cat", "--class", "cat"]);
    std::fs::remove_dir_all(server.path("data/objects/concepts").join(&lost)).unwrap();
    let failed = server.run(&[&["train", "lost", "--watch"], &SHORT[..]].concat());
    assert_eq!(failed.status, 7, "{failed:?}");
    assert!(
        failed.stdout.starts_with("trn_") && failed.stderr.contains("object_missing"),
        "{failed:?}"
    );

    assert_eq!(server.says(&["queue"]), "");
    assert_eq!(server.says(&["concepts", "rm", "urn", "--cascade"]), "urn");
    assert_eq!(server.run(&["concepts", "show", "urn"]).status, 4);
}
