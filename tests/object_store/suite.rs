//! What every store has to do.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use sqlx::PgPool;
use vstar::db;
use vstar::domain::digest::Digest;
use vstar::domain::id::{ConceptId, ImageId, JobId, ProjectId, UploadId};
use vstar::domain::image::{Image, ImageSource};
use vstar::gc::{GcOptions, collect};
use vstar::storage::{SignedUrl, Storage, StorageError, StorageKey, StoreError};

/// Bytes that compress badly and differ with the seed.
pub(crate) fn bytes(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

pub(crate) async fn suite(storage: &Storage) {
    crate::faults::is_up(storage).await;
    objects_are_kept(storage).await;
    an_object_is_created_once(storage).await;
    large_objects_are_written_in_parts(storage).await;
    objects_are_listed(storage).await;
    a_signed_url_takes_its_object(storage).await;
    gc_collects(storage).await;
}

pub(crate) async fn wrong_credentials(storage: &Storage) {
    let refused = storage.check().await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied(_)), "{refused:?}");
    assert!(refused.to_string().contains("credentials"), "{refused}");
    let key = StorageKey::upload(ImageId::generate());
    let denied = storage.write(&key, "content").await.unwrap_err();
    assert!(matches!(denied, StorageError::Denied { .. }), "{denied:?}");
    assert!(!denied.is_transient() && !denied.is_lost());
}

async fn objects_are_kept(storage: &Storage) {
    let key = StorageKey::delta(JobId::generate(), 3);
    let content = bytes(300_000, 1);
    let sha256 = Digest::of(&content);

    storage.write(&key, content.clone()).await.unwrap();

    assert_eq!(storage.read(&key).await.unwrap(), content);
    assert_eq!(storage.read_checked(&key, &sha256).await.unwrap(), content);
    assert_eq!(storage.read_range(&key, 1000..1010).await.unwrap(), content[1000..1010]);
    assert_eq!(storage.info(&key).await.unwrap().unwrap().size_bytes, 300_000);
    let damaged = storage.read_checked(&key, &Digest::of(b"other")).await.unwrap_err();
    assert!(matches!(damaged, StorageError::Damaged { .. }), "{damaged:?}");
    for range in [299_999..300_001, 400_000..400_001] {
        let cut = storage.read_range(&key, range).await.unwrap_err();
        assert!(matches!(cut, StorageError::Damaged { .. }), "{cut:?}");
    }

    storage.delete(&key).await.unwrap();
    storage.delete(&key).await.unwrap();
    assert!(!storage.exists(&key).await.unwrap());
    assert!(storage.read_if_there(&key).await.unwrap().is_none());
    let missing = storage.read(&key).await.unwrap_err();
    assert!(matches!(missing, StorageError::Missing { .. }), "{missing:?}");
    assert!(missing.to_string().contains(key.as_str()) && !missing.is_transient(), "{missing}");
    let missing = storage.read_range(&key, 0..1).await.unwrap_err();
    assert!(matches!(missing, StorageError::Missing { .. }), "{missing:?}");
    storage.write(&key, "").await.unwrap();
    assert_eq!(storage.read(&key).await.unwrap(), "");
    storage.delete(&key).await.unwrap();
}

async fn an_object_is_created_once(storage: &Storage) {
    let key = StorageKey::upload(ImageId::generate());
    storage.write(&key, "mine").await.unwrap();

    storage.write(&key, "mine").await.unwrap(); // a repetition whose first answer was lost
    for other in ["yours", "mi"] {
        let taken = storage.write(&key, other).await.unwrap_err();
        assert!(matches!(taken, StorageError::Taken { .. }), "{taken:?}");
    }
    assert_eq!(storage.read(&key).await.unwrap(), "mine");

    storage.replace(&key, "made again").await.unwrap();
    assert_eq!(storage.read(&key).await.unwrap(), "made again");
    storage.delete(&key).await.unwrap();

    // Of many at once, one wins.
    let racing = (0..8).map(|writer| storage.write(&key, format!("of writer {writer}")));
    let won = futures::future::join_all(racing).await.iter().filter(|done| done.is_ok()).count();
    assert_eq!(won, 1);
    storage.delete(&key).await.unwrap();
}

async fn large_objects_are_written_in_parts(storage: &Storage) {
    let key = StorageKey::delta(JobId::generate(), 1);
    let content = bytes(40_000_000, 2);
    let begin = Instant::now();
    storage.write(&key, content.clone()).await.unwrap();
    let written = begin.elapsed();
    let read = storage.read_checked(&key, &Digest::of(&content)).await.unwrap();
    println!(
        "40 MB written in {:.2} s, read and checked in {:.2} s",
        written.as_secs_f64(),
        (begin.elapsed() - written).as_secs_f64()
    );
    assert_eq!(read.len(), content.len());
    let edge = 8 * 1024 * 1024;
    for start in [0, edge - 5, 4 * edge - 5, content.len() - 10] {
        let part = storage.read_range(&key, start as u64..start as u64 + 10).await.unwrap();
        assert_eq!(part, content[start..start + 10]);
    }
    storage.delete(&key).await.unwrap();
}

async fn objects_are_listed(storage: &Storage) {
    let concept = ConceptId::generate();
    let keys: Vec<StorageKey> =
        (0..25).map(|_| StorageKey::photo(concept, ImageId::generate())).collect();
    for key in &keys {
        storage.write(key, "a photo").await.unwrap();
    }
    let now = storage.now().await.unwrap();

    let listed: Vec<_> = storage.list(&format!("concepts/{concept}")).try_collect().await.unwrap();

    let mut names: Vec<&StorageKey> = listed.iter().map(|object| &object.key).collect();
    names.sort_by_key(|key| key.as_str());
    assert_eq!(names, keys.iter().collect::<Vec<_>>(), "ids are ordered");
    for object in &listed {
        assert_eq!(object.size_bytes, 7);
        let age = now - object.last_modified;
        assert!(
            age < chrono::TimeDelta::minutes(1) && age > chrono::TimeDelta::seconds(-2),
            "{age}"
        );
    }
    assert!(storage.list("concept").try_collect::<Vec<_>>().await.unwrap().is_empty());
    for key in &keys {
        storage.delete(key).await.unwrap();
    }
}

/// A database of this process, beside those of other tests.
/// Where a store has signed URLs: a client without credentials writes the one object that the URL names, and a file of a few parts is
/// stored from the disk.
async fn a_signed_url_takes_its_object(storage: &Storage) {
    let upload = UploadId::generate();
    let (key, other) = (StorageKey::incoming(upload), StorageKey::incoming(UploadId::generate()));
    let client = reqwest::Client::new();
    if let Some(signed) = storage.upload_url(&key, Duration::from_secs(60)).await.unwrap() {
        let SignedUrl { url, headers } = signed;
        let put = async |url: &str, content: Vec<u8>| {
            let request = headers
                .iter()
                .fold(client.put(url), |request, (name, value)| request.header(*name, *value));
            request.body(content).send().await.unwrap().status()
        };
        let (first, second) = (bytes(10_000, 11), bytes(12_000, 12));
        assert!(put(&url, first.clone()).await.is_success(), "{url}");
        assert_eq!(storage.read(&key).await.unwrap(), first);
        assert!(put(&url, second.clone()).await.is_success());
        assert_eq!(storage.read_range(&key, 0..10_000).await.unwrap(), second[..10_000]);
        let forged = url.replace(&upload.to_string(), other.rsplit('/').next().unwrap());
        let forged = put(&forged, first).await;
        // Servers for tests may take any signature; none writes another object than the one that the URL names.
        assert!(forged.is_client_error() || storage.exists(&other).await.unwrap(), "{forged}");
        storage.delete(&other).await.unwrap();
        storage.delete(&key).await.unwrap();
    }

    let large = bytes(20 << 20, 13);
    let key = StorageKey::upload(ImageId::generate());
    let file = std::io::Cursor::new(large.clone());
    storage.write_from(&key, file, large.len() as u64).await.unwrap();
    assert_eq!(storage.read_checked(&key, &Digest::of(&large)).await.unwrap(), large);
    storage.delete(&key).await.unwrap();
}

async fn database() -> PgPool {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL names a Postgres");
    let name = format!("stores_{}", uuid::Uuid::now_v7().simple());
    let server = PgPool::connect(&url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create database {name}")))
        .execute(&server)
        .await
        .unwrap();
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let db = PgPool::connect_with(options.database(&name)).await.unwrap();
    db::MIGRATOR.run(&db).await.unwrap();
    db
}

async fn gc_collects(storage: &Storage) {
    let db = database().await;
    let image = |key: StorageKey| Image {
        image_id: ImageId::generate(),
        source: ImageSource::Upload { file_name: None },
        width: 1,
        height: 1,
        size_bytes: 7,
        sha256: Digest::of(b"content"),
        storage_key: key,
        regions: Vec::new(),
        created_at: chrono::Utc::now(),
        record: vstar::domain::record::Record::new(chrono::Utc::now(), Default::default()),
    };
    let mut kept = image(StorageKey::stored(""));
    kept.storage_key = StorageKey::upload(kept.image_id);
    let mut lost = image(StorageKey::stored(""));
    lost.storage_key = StorageKey::upload(lost.image_id);
    for image in [&kept, &lost] {
        db::image::record(&db, ProjectId::DEFAULT, image).await.unwrap();
    }
    storage.write(&kept.storage_key, "content").await.unwrap();
    let strays: Vec<_> = (0..1100).map(|_| StorageKey::upload(ImageId::generate())).collect();
    for some in strays.chunks(50) {
        futures::future::try_join_all(some.iter().map(|key| storage.write(key, "content")))
            .await
            .unwrap();
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;

    let options = GcOptions { dry_run: false, grace: Duration::ZERO };
    let begin = Instant::now();
    let report = collect(&db, storage, &options).await.unwrap();

    println!("gc of {} strays in {:.2} s", report.deleted(), begin.elapsed().as_secs_f64());
    // A store that was still starting may have kept probes of checks that did not wait for it: those are strays, too.
    let uploads = report.folders.iter().find(|folder| folder.name == "uploads").unwrap();
    assert_eq!(uploads.deleted, strays.len(), "{report}");
    assert_eq!(report.deleted(), report.stray(), "{report}");
    assert!(storage.exists(&kept.storage_key).await.unwrap());
    assert_eq!(report.lost_count, 1, "{report}");
    assert!(report.lost[0].owner.contains(&lost.image_id.to_string()), "{report}");
    storage.delete(&kept.storage_key).await.unwrap();
    assert_eq!(collect(&db, storage, &options).await.unwrap().stray(), 0, "{report}");
}

pub(crate) async fn a_place_that_is_not_there_is_refused(storage: &Storage) {
    let refused = storage.check().await.unwrap_err();
    match refused {
        StoreError::NoContainer(_) => assert!(refused.to_string().contains("make it"), "{refused}"),
        // Whoever may not list the buckets is not told which there are.
        StoreError::Denied(_) => assert!(refused.to_string().contains("credentials"), "{refused}"),
        _ => panic!("{refused:?}"),
    }
    // Without its bucket, a store has none of the objects. None of them is missing because of that.
    let key = StorageKey::upload(ImageId::generate());
    let error = storage.read(&key).await.unwrap_err();
    assert!(!error.is_lost(), "{error:?}");
    let error = storage.write(&key, "content").await.unwrap_err();
    assert!(!error.is_lost(), "{error:?}");
}
