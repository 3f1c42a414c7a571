//! A receiver of webhooks that behaves as told, well or badly.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How a receiver answers.
#[derive(Clone, Debug)]
pub(super) enum Behaviour {
    Status(u16),
    /// The first answers have the first status, those after so many the second.
    StatusThen(u16, usize, u16),
    RedirectTo(String),
    /// The head of an answer, and then a byte every so often, for ever.
    Trickle(Duration),
    /// An answer of 200 with so many bytes.
    Large(usize),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> String {
        let of_name = |line: &str| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        self.head.lines().find_map(of_name).unwrap_or_default()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn event(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }
}

/// A server on this machine. It ends with the test's runtime.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    /// Connections in all, whether anything came through them or not.
    connections: Arc<AtomicUsize>,
    /// Bytes of answers that were taken off our hands.
    written: Arc<AtomicUsize>,
}

impl Receiver {
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            connections: Arc::default(),
            written: Arc::default(),
        };
        let serving = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let (receiver, behaviour) = (serving.clone(), behaviour.clone());
                tokio::spawn(async move {
                    let _ = receiver.answer(stream, behaviour).await;
                });
            }
        });
        receiver
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn written(&self) -> usize {
        self.written.load(Ordering::SeqCst)
    }

    /// Waits until so many requests have come.
    pub(super) async fn wait_for(&self, count: usize) {
        for _ in 0..300 {
            if self.requests().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} of {count} requests came", self.requests().len());
    }

    async fn answer(&self, mut stream: TcpStream, behaviour: Behaviour) -> std::io::Result<()> {
        let request = read(&mut stream).await?;
        let count = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(request);
            requests.len()
        };
        let status = |status: u16| {
            format!(
                "HTTP/1.1 {status} Said\r\nconnection: close\r\ncontent-length: 6\r\n\r\nheard\n"
            )
        };
        match behaviour {
            Behaviour::Status(204) => {
                stream.write_all(b"HTTP/1.1 204 Said\r\nconnection: close\r\n\r\n").await
            }
            Behaviour::Status(code) => stream.write_all(status(code).as_bytes()).await,
            Behaviour::StatusThen(first, until, then) => {
                let code = if count <= until { first } else { then };
                stream.write_all(status(code).as_bytes()).await
            }
            Behaviour::RedirectTo(url) => {
                let head = "HTTP/1.1 307 Said\r\nconnection: close\r\ncontent-length: 0\r\n";
                stream.write_all(format!("{head}location: {url}\r\n\r\n").as_bytes()).await
            }
            Behaviour::Trickle(pause) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await?;
                loop {
                    stream.write_all(b"x").await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Behaviour::Large(bytes) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let chunk = vec![b'x'; 64 * 1024];
                for _ in 0..bytes / chunk.len() {
                    stream.write_all(&chunk).await?;
                    self.written.fetch_add(chunk.len(), Ordering::SeqCst);
                }
                Ok(())
            }
        }
    }
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Request> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut request = Request { head, body: bytes[end + 4..].to_vec() };
        let length: usize = request.header("content-length").parse().unwrap_or(0);
        while request.body.len() < length {
            let read = stream.read(&mut buffer).await?;
            request.body.extend_from_slice(&buffer[..read]);
        }
        return Ok(request);
    }
}
