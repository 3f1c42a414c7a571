//! The object store over each kind of store: a folder, S3 (two servers of its protocol) and Azure.
//!
//! A store is configured by the environment, so each test runs its part in a process of its own: this program again, with
//! one of the tests that are ignored otherwise. Those of gc need `DATABASE_URL`, as the tests of the service do.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod disk_full;
mod faults;
#[expect(dead_code, reason = "other test programs use the rest of it")]
#[path = "../support/proxy.rs"]
mod proxy;
mod servers;
mod suite;

use std::process::Command;

use servers::{Azurite, Moto, SeaweedFs, Settings};

/// Runs an ignored test of this program in a process with these settings.
fn in_process_of_its_own(test: &str, settings: &Settings) {
    let test_program = std::env::current_exe().unwrap();
    let output = Command::new(test_program)
        .args(["--ignored", "--exact", "--nocapture", test])
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("1 passed"), "`{test}` did not run: {stdout}");
    print!("{stdout}");
}

#[test]
fn a_folder_keeps_objects() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("objects").display().to_string();
    in_process_of_its_own("suite::suite", &vec![("VSTAR_TEST_STORE".to_owned(), place)]);
}

#[test]
fn seaweedfs_keeps_objects() {
    in_process_of_its_own("suite::suite", &SeaweedFs::start().settings());
}

#[test]
fn wrong_credentials_are_said_to_be() {
    let server = SeaweedFs::start();
    let mut settings = server.settings();
    settings.push(("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong".to_owned()));
    in_process_of_its_own("suite::wrong_credentials", &settings);
}

#[test]
fn moto_keeps_objects() {
    in_process_of_its_own("suite::suite", &Moto::start().settings());
}

#[test]
fn azurite_keeps_objects() {
    in_process_of_its_own("suite::suite", &Azurite::start().settings());
}

#[test]
fn an_s3_store_that_fails_loses_nothing() {
    in_process_of_its_own("faults::faults", &SeaweedFs::start().settings());
}

#[test]
fn an_azure_store_that_fails_loses_nothing() {
    in_process_of_its_own("faults::faults", &Azurite::start().settings());
}
