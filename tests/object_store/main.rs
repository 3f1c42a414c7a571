//! The object store over each kind of store: a folder, S3 (two servers of its protocol) and Azure.
//!
//! The tests of gc need `DATABASE_URL`, as the tests of the service do.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod disk_full;
mod faults;
#[expect(dead_code, reason = "other test programs use the rest of it")]
#[path = "../support/proxy.rs"]
mod proxy;
mod servers;
mod suite;

use servers::{Azurite, Moto, Protocol, SeaweedFs};
use vstar::storage::Storage;

/// Runs a test with threads beside it. Servers start outside of it.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

#[test]
fn a_folder_keeps_objects() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("objects");
    run(suite::suite(&Storage::open(place.to_str().unwrap()).unwrap()));
}

#[test]
fn seaweedfs_keeps_objects() {
    let server = SeaweedFs::start();
    run(suite::suite(&Protocol::S3.open(server.address())));
}

#[test]
fn moto_keeps_objects() {
    let server = Moto::start();
    run(suite::suite(&Protocol::S3.open(server.address())));
}

#[test]
fn azurite_keeps_objects() {
    let server = Azurite::start();
    run(suite::suite(&Protocol::Azure.open(server.address())));
}

#[test]
fn a_bucket_or_container_that_is_not_there_is_said() {
    let (seaweedfs, moto, azurite) = (SeaweedFs::start(), Moto::start(), Azurite::start());
    for (protocol, address) in [
        (Protocol::S3, seaweedfs.address()),
        (Protocol::S3, moto.address()),
        (Protocol::Azure, azurite.address()),
    ] {
        let place = protocol.place().replace("://vstar", "://no-such-place");
        let storage = Storage::open_with(&place, &protocol.settings(address)).unwrap();
        run(suite::a_place_that_is_not_there_is_refused(&storage));
    }
}

#[test]
fn wrong_credentials_are_said_to_be() {
    let server = SeaweedFs::start();
    let mut settings = Protocol::S3.settings(server.address());
    settings.push(("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong".to_owned()));
    run(suite::wrong_credentials(&Storage::open_with(Protocol::S3.place(), &settings).unwrap()));
}

#[test]
fn an_s3_store_that_fails_loses_nothing() {
    let server = SeaweedFs::start();
    run(faults::faults(Protocol::S3, server.address()));
}

#[test]
fn an_azure_store_that_fails_loses_nothing() {
    let server = Azurite::start();
    run(faults::faults(Protocol::Azure, server.address()));
}
