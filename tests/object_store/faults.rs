//! A store whose connections fail: what is written is whole or not there, and nothing hangs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use vstar::domain::digest::Digest;
use vstar::domain::id::{ImageId, JobId};
use vstar::storage::{ANSWER, Storage, StorageError, StorageKey, StoreError};

use crate::proxy::{Fault, Proxy};
use crate::servers::Protocol;
use crate::suite::bytes;

/// What a client waits for a refusal.
const LIMIT: Duration = Duration::from_secs(10);

/// Puts a proxy before the server and breaks its connections.
pub(crate) async fn faults(protocol: Protocol, server: SocketAddr) {
    let proxy = Proxy::start(server).await;
    let storage = protocol.open(proxy.address);
    is_up(&storage).await;
    an_answer_that_is_lost(&storage, &proxy).await;
    a_read_that_is_cut(&storage, &proxy).await;
    a_write_that_is_cut(&storage, &proxy).await;
    a_store_that_is_slow(&storage, &proxy).await;
    a_store_that_is_down(&storage, &proxy).await;
    a_store_that_is_silent(&storage, &proxy).await;
    println!("{} connections were cut", proxy.struck());
}

/// Waits for a store that has just begun.
pub(crate) async fn is_up(storage: &Storage) {
    let began = Instant::now();
    while let Err(error) = storage.check().await {
        assert!(began.elapsed() < Duration::from_secs(60), "{error:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The store has created the object, and nobody was told.
async fn an_answer_that_is_lost(storage: &Storage, proxy: &Proxy) {
    for (round, size) in [10, 5_000, 300_000, 3_000_000, 30_000_000].into_iter().enumerate() {
        let key = StorageKey::delta(JobId::generate(), 1);
        let content = bytes(size, round as u32);
        proxy.set(Fault::LostAnswer);

        storage.write(&key, content.clone()).await.unwrap();

        assert_eq!(proxy.struck(), round + 1, "the answer was not lost");
        assert_eq!(storage.read(&key).await.unwrap(), content);
    }
    // The same, but somebody else's object is there.
    let key = StorageKey::upload(ImageId::generate());
    storage.write(&key, "theirs").await.unwrap();
    proxy.set(Fault::LostAnswer);
    let taken = storage.write(&key, "mine!!").await.unwrap_err();
    assert!(matches!(taken, StorageError::Taken { .. }), "{taken:?}");
    assert_eq!(storage.read(&key).await.unwrap(), "theirs");
}

async fn a_read_that_is_cut(storage: &Storage, proxy: &Proxy) {
    let key = StorageKey::delta(JobId::generate(), 1);
    let content = bytes(20_000_000, 7);
    let sha256 = Digest::of(&content);
    storage.write(&key, content.clone()).await.unwrap();
    for limit in [100, 50_000, 5_000_000, 10_000_000, 19_000_000] {
        let struck = proxy.struck();
        proxy.set(Fault::CutAnswer(limit));
        let read = storage.read_checked(&key, &sha256).await;
        assert_eq!(proxy.struck(), struck + 1, "the answer was not cut");
        match read {
            Ok(read) => assert_eq!(read, content),
            // An error is right as well, if it is one that passes.
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                assert_eq!(storage.read_checked(&key, &sha256).await.unwrap(), content);
            }
        }
    }
}

async fn a_write_that_is_cut(storage: &Storage, proxy: &Proxy) {
    for (round, limit) in [1_000, 100_000, 4_000_000, 9_000_000, 20_000_000].into_iter().enumerate()
    {
        let key = StorageKey::delta(JobId::generate(), 1);
        let content = bytes(if round < 3 { 10_000_000 } else { 30_000_000 }, round as u32);
        // The limit is of one connection, and parts go over several.
        proxy.set(Fault::CutRequest(limit.min(7_000_000)));
        match storage.write(&key, content.clone()).await {
            Ok(()) => assert_eq!(storage.read(&key).await.unwrap(), content),
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                proxy.set(Fault::None);
                if let Some(there) = storage.read_if_there(&key).await.unwrap() {
                    assert_eq!(there, content, "half an object");
                }
                storage.write(&key, content.clone()).await.unwrap();
                assert_eq!(storage.read(&key).await.unwrap(), content);
            }
        }
        proxy.set(Fault::None);
    }
}

async fn a_store_that_is_slow(storage: &Storage, proxy: &Proxy) {
    proxy.set(Fault::Slow(Duration::from_millis(300)));
    let key = StorageKey::upload(ImageId::generate());
    storage.write(&key, "content").await.unwrap();
    assert_eq!(storage.read(&key).await.unwrap(), "content");
    proxy.set(Fault::None);
}

async fn a_store_that_is_down(storage: &Storage, proxy: &Proxy) {
    let key = StorageKey::upload(ImageId::generate());
    proxy.set(Fault::Closed);
    for _ in 0..2 {
        let begin = Instant::now();
        let down = storage.write(&key, "content").await.unwrap_err();
        assert!(
            down.is_transient() && begin.elapsed() < LIMIT,
            "{down:?} in {:?}",
            begin.elapsed()
        );
        let begin = Instant::now();
        let down = storage.read(&key).await.unwrap_err();
        assert!(
            down.is_transient() && begin.elapsed() < LIMIT,
            "{down:?} in {:?}",
            begin.elapsed()
        );
        println!("down: {down}, in {:.1} s", begin.elapsed().as_secs_f64());
    }
    let begin = Instant::now();
    let refused = storage.check().await.unwrap_err();
    assert!(matches!(refused, StoreError::Unreachable(_)), "{refused:?}");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());

    proxy.set(Fault::None);
    storage.write(&key, "content").await.unwrap();
    assert_eq!(storage.read(&key).await.unwrap(), "content");
}

async fn a_store_that_is_silent(storage: &Storage, proxy: &Proxy) {
    let key = StorageKey::upload(ImageId::generate());
    proxy.set(Fault::Silent);
    let begin = Instant::now();
    let write = storage.write(&key, "content");
    let read = storage.read(&key);
    let (write, read, check) = tokio::join!(write, read, async {
        let refused = storage.check().await.unwrap_err();
        (refused, begin.elapsed())
    });
    let (refused, after) = check;
    assert!(matches!(refused, StoreError::Silent(_)), "{refused:?}");
    assert!(after < Duration::from_millis(2500), "{after:?}");
    for error in [write.unwrap_err(), read.unwrap_err()] {
        assert!(matches!(error, StorageError::Silent { .. }) && error.is_transient(), "{error:?}");
    }
    assert!((ANSWER..LIMIT).contains(&begin.elapsed()), "{:?}", begin.elapsed());

    proxy.set(Fault::None);
    storage.write(&key, "content").await.unwrap();
    assert_eq!(storage.read(&key).await.unwrap(), "content");
}
