//! The server under load, a process of its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server with a folder and a port of its own.
pub(crate) struct Server {
    child: Child,
    name: &'static str,
    port: u16,
    settings: &'static [&'static str],
}

impl Server {
    /// Starts a server with an empty folder and waits until it is ready.
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::start_with(name, &[]).await
    }

    /// The same with more settings.
    pub(crate) async fn start_with(name: &'static str, settings: &'static [&'static str]) -> Self {
        let folder = folder(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let _ = fs::remove_file(log(name));
        let server = Self { child: spawn(name, port, settings), name, port, settings };
        server.ready().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The first key, which the server has written to its log.
    pub(crate) fn first_key(&self) -> String {
        let log = fs::read_to_string(log(self.name)).unwrap();
        log.lines().find(|line| line.starts_with("vstar_")).unwrap().to_owned()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends the process in order and starts it again on the same folder and port.
    pub(crate) async fn restart(&mut self) {
        self.end();
        self.child = spawn(self.name, self.port, self.settings);
        self.ready().await;
    }

    /// Asks the process to end, and waits until it has.
    pub(crate) fn end(&mut self) {
        // SAFETY: the process is a child that has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        self.child.wait().unwrap();
    }

    /// The memory of the process now, in bytes. Postgres is another process.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory that the process has had, in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Lets the peak begin again with what is resident now.
    pub(crate) fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    async fn ready(&self) {
        let began = Instant::now();
        let url = format!("{}/readyz", self.url());
        while !reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(began.elapsed() < Duration::from_secs(120), "the server does not get ready");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.end();
        }
    }
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from("target/load").join(name)
}

/// Where the server writes what it logs.
fn log(name: &str) -> PathBuf {
    PathBuf::from(format!("target/load/{name}.log"))
}

fn spawn(name: &str, port: u16, settings: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(log(name)).unwrap();
    Command::new(env!("CARGO_BIN_EXE_vstar"))
        .args(["serve", "--drain-grace", "0", "--listen", &format!("127.0.0.1:{port}")])
        .args(["--max-connections", "2000"]) // the thousand clients are not alone
        .arg("--data-dir")
        .arg(folder(name))
        .args(settings)
        .env("RUST_LOG", if settings.is_empty() { "warn" } else { "info" })
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
