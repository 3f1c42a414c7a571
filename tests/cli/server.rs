//! A server of the test's own, and the program as its client.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// `vstar serve` with a folder of its own; both end with the test.
pub(crate) struct Server {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
    args: &'static [&'static str],
    /// Sent with every request, if the server asks for keys.
    pub(crate) key: Option<String>,
}

impl Server {
    /// Starts a server with further arguments and waits until it answers.
    pub(crate) async fn start(args: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let child = spawn(folder.path(), port, args);
        let mut server = Self { child, folder, port, args, key: None };
        server.is_ready().await;
        let said = std::fs::read_to_string(server.folder.path().join("stdout")).unwrap();
        server.key = said.lines().find(|line| line.starts_with("vstar_")).map(str::to_owned);
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A file or folder that goes with the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Kills it and starts it again on the same folder and port.
    pub(crate) async fn killed_and_started(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.child = spawn(self.folder.path(), self.port, self.args);
        self.is_ready().await;
    }

    async fn is_ready(&mut self) {
        let began = Instant::now();
        let url = format!("{}/readyz", self.url());
        while !reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(began.elapsed() < PATIENCE && self.child.try_wait().unwrap().is_none());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The program as a client of this server.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = program(args);
        command.env("VSTAR_URL", self.url());
        if let Some(key) = &self.key {
            command.env("VSTAR_API_KEY", key);
        }
        command
    }

    /// Runs the program as a client, in pipes.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.client(args).output().unwrap())
    }

    /// What a command that has to succeed prints, without its last line break.
    pub(crate) fn says(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.status, 0, "{args:?}: {ran:?}");
        ran.stdout.trim_end().to_owned()
    }

    /// Runs a line of bash in which `vstar` is the program.
    pub(crate) fn bash(&self, line: &str) -> Ran {
        let program = env!("CARGO_BIN_EXE_vstar");
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("set -o pipefail; vstar() {{ {program} \"$@\"; }}; {line}")]);
        Ran::of(bash.env("VSTAR_URL", self.url()).output().unwrap())
    }

    /// Runs the program on a terminal; see `terminal.py`.
    pub(crate) fn on_a_terminal(&self, args: &[&str], env: Value, steps: Value) -> Ran {
        let mut words = vec![env!("CARGO_BIN_EXE_vstar")];
        words.extend(args);
        let asked = json!({ "args": words, "env": env, "steps": steps }).to_string();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/terminal.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(asked).env("VSTAR_URL", self.url()).env("TERM", "xterm");
        Ran::of(python.env_remove("NO_COLOR").output().unwrap())
    }

    /// The body of an answer as it comes.
    pub(crate) async fn body(&self, path: &str) -> String {
        let mut request = reqwest::Client::new().get(format!("{}{path}", self.url()));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        answer.text().await.unwrap()
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.body(path).await).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, without what the tests' own environment says.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vstar"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    for name in ["DATABASE_URL", "VSTAR_OBJECT_STORE", "VSTAR_API_KEY", "VSTAR_URL", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

fn spawn(folder: &Path, port: u16, args: &[&str]) -> Child {
    let mut command = program(&["serve"]);
    let file = |name: &str| {
        std::fs::File::options().create(true).append(true).open(folder.join(name)).unwrap()
    };
    command.args(args).arg("--data-dir").arg(folder.join("data"));
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    command.stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap()
}

/// How a command has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status;
        Self {
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
