//! Servers of object stores, each on ports and in a folder of its own; they end with the test.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use sha2::{Digest, Sha256};
use vstar::storage::Storage;

/// How a store is spoken to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    S3,
    Azure,
}

impl Protocol {
    /// Where the tests' objects are.
    pub(crate) fn place(self) -> &'static str {
        match self {
            Self::S3 => "s3://vstar/some/prefix",
            Self::Azure => "az://vstar/some/prefix",
        }
    }

    /// What the environment of a program has that uses the server at this address.
    pub(crate) fn settings(self, address: SocketAddr) -> Vec<(String, String)> {
        let url = format!("http://{address}");
        let account = format!("{url}/{AZURITE_ACCOUNT}");
        let settings: &[(&str, &str)] = match self {
            Self::S3 => &[
                ("AWS_ENDPOINT", &url),
                ("AWS_ALLOW_HTTP", "true"),
                ("AWS_REGION", "us-east-1"),
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
            ],
            Self::Azure => &[
                ("AZURE_STORAGE_ENDPOINT", &account),
                ("AZURE_ALLOW_HTTP", "true"),
                ("AZURE_STORAGE_ACCOUNT_NAME", AZURITE_ACCOUNT),
                ("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY),
            ],
        };
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    pub(crate) fn open(self, address: SocketAddr) -> Storage {
        Storage::open_with(self.place(), &self.settings(address)).unwrap()
    }
}

/// An address on this machine.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A process and its folder.
struct Server {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// - `install`: what to do where the program is not there
    fn start(mut command: Command, port: u16, folder: tempfile::TempDir, install: &str) -> Self {
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.unwrap_or_else(|error| panic!("{error}: {install}"));
        let server = Self { process, _folder: folder };
        let limit = Instant::now() + Duration::from_secs(90);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < limit, "a server of the tests did not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }
}

/// A free port, and the one that is as far above it is free, too.
fn free_port(above: u16) -> u16 {
    for _ in 0..1000 {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        // Below the ports that the system hands out, so that nobody gets it in the meantime.
        let port = 10_000 + port % 12_000;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + above) {
            return port;
        }
    }
    panic!("no port is free");
}

/// Sends a request without a body and waits until the server takes it.
fn until_done(method: Method, url: &str, headers: &[(&str, String)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let mut request =
            reqwest::Client::new().request(method.clone(), url).header("content-length", "0");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = runtime.block_on(request.send());
        if answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        assert!(Instant::now() < limit, "{url} cannot be made: {answer:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// `moto_server`: quick, but it is a mock of S3.
pub(crate) struct Moto {
    port: u16,
    _server: Server,
}

impl Moto {
    pub(crate) fn start() -> Self {
        let port = free_port(0);
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(command, port, folder, "run make object-stores");
        until_done(Method::PUT, &format!("http://127.0.0.1:{port}/vstar"), &[]);
        Self { port, _server: server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        local(self.port)
    }
}

/// SeaweedFS: a store that keeps data, with an S3 front.
pub(crate) struct SeaweedFs {
    port: u16,
    _server: Server,
}

/// One user, who may use one bucket.
const SEAWEEDFS_USERS: &str = r#"{ "identities": [{
    "name": "test",
    "credentials": [{ "accessKey": "test", "secretKey": "test" }],
    "actions": ["Read:vstar", "Write:vstar", "List:vstar"]
}] }"#;

impl SeaweedFs {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Each of its parts has a second port, ten thousand above its first.
        let ports = [(); 4].map(|()| free_port(10_000));
        let users = folder.path().join("s3.json");
        std::fs::write(&users, SEAWEEDFS_USERS).unwrap();
        let mut command = Command::new("weed");
        command
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=20"])
            .arg("-master.volumeSizeLimitMB=256")
            .arg(format!("-dir={}", folder.path().display()))
            .arg(format!("-s3.config={}", users.display()))
            .arg(format!("-s3.port={}", ports[0]))
            .arg(format!("-master.port={}", ports[1]))
            .arg(format!("-volume.port={}", ports[2]))
            .arg(format!("-filer.port={}", ports[3]));
        let server = Server::start(command, ports[0], folder, "run make object-stores");
        // A folder of its files is a bucket. This user may not make one.
        until_done(Method::POST, &format!("http://127.0.0.1:{}/buckets/vstar/", ports[3]), &[]);
        Self { port: ports[0], _server: server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        local(self.port)
    }
}

/// Azurite: Microsoft's emulator of Azure's blobs.
pub(crate) struct Azurite {
    port: u16,
    _server: Server,
}

/// The emulator's one account and its key, as they are documented.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

impl Azurite {
    pub(crate) fn start() -> Self {
        let port = free_port(0);
        let folder = tempfile::tempdir().unwrap();
        let installed = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/azurite/node_modules/.bin/azurite-blob");
        let program = if installed.exists() { installed } else { "azurite-blob".into() };
        let mut command = Command::new(program);
        command
            .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"])
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .arg("--location")
            .arg(folder.path());
        let server = Server::start(command, port, folder, "run make object-stores");
        let azurite = Self { port, _server: server };
        azurite.make_container();
        azurite
    }

    pub(crate) fn address(&self) -> SocketAddr {
        local(self.port)
    }

    /// One request signed with the account's key, since [`object_store`] makes no containers.
    fn make_container(&self) {
        let date = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let version = "2021-08-06";
        let account = AZURITE_ACCOUNT;
        let to_sign = format!(
            "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/vstar\nrestype:container"
        );
        let key = data_encoding::BASE64.decode(AZURITE_KEY.as_bytes()).unwrap();
        let signature = data_encoding::BASE64.encode(&hmac(&key, to_sign.as_bytes()));
        let url = format!("http://127.0.0.1:{}/{account}/vstar?restype=container", self.port);
        let headers = [
            ("x-ms-date", date),
            ("x-ms-version", version.to_owned()),
            ("authorization", format!("SharedKey {account}:{signature}")),
        ];
        until_done(Method::PUT, &url, &headers);
    }
}

/// HMAC with SHA-256 (RFC 2104), for keys of at most 64 bytes.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let padded = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}
