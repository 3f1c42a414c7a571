//! The object store over S3, against a real server of its protocol, and as a folder.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vstar::domain::id::JobId;
use vstar::storage::{Storage, StorageKey};

/// `moto_server` on a port of its own; it ends with the test.
struct S3Server {
    process: Child,
    url: String,
}

impl S3Server {
    fn start() -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|free| free.local_addr())
            .map(|address| address.port());
        let port = port.expect("a free port");
        let process = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the S3 server of the tests is missing: pip install 'moto[server]'");
        let limit = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < limit, "the S3 server did not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        Self { process, url: format!("http://127.0.0.1:{port}") }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Checks the store, writes an object, reads it back, and looks for one that is not there.
async fn keeps_objects(storage: &Storage) {
    storage.check().await.expect("the store refuses a second creation");
    let key = StorageKey::delta(JobId::generate(), 3);
    let content = vec![7u8; 300_000];

    storage.write(&key, content.clone()).await.expect("written");

    assert_eq!(storage.read(&key).await.expect("read"), content);
    let other = StorageKey::delta(JobId::generate(), 3);
    let error = storage.read(&other).await.expect_err("nothing was written there");
    assert!(error.to_string().contains(other.as_str()), "{error}");
}

#[test]
fn objects_are_kept_in_s3_and_in_a_folder() {
    let server = S3Server::start();
    for (name, value) in [
        ("AWS_ENDPOINT", server.url.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ] {
        // SAFETY: this is the only test of its process; the thread that waits for it reads no environment.
        unsafe { std::env::set_var(name, value) };
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let folder = tempfile::tempdir().expect("a folder");

    runtime.block_on(async {
        let bucket = reqwest::Client::new()
            .put(format!("{}/vstar", server.url))
            .send()
            .await
            .expect("answer");
        assert!(bucket.status().is_success(), "{bucket:?}");

        keeps_objects(&Storage::open("s3://vstar/some/prefix").expect("opened")).await;
        keeps_objects(
            &Storage::open(&folder.path().join("objects").to_string_lossy()).expect("opened"),
        )
        .await;

        let nowhere = Storage::open("s3://no-such-bucket").expect("opened");
        assert!(nowhere.check().await.is_err(), "a bucket that is not there was accepted");
    });
}
