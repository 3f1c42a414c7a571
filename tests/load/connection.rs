//! One connection that asks for one thing again and again, at next to no cost: clients and server share the machine.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: &str, path: &str) -> std::io::Result<Self> {
        Self::open_with_key(address, path, None).await
    }

    pub(crate) async fn open_with_key(
        address: &str,
        path: &str,
        key: Option<&str>,
    ) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{key}\r\n").into_bytes();
        Ok(Self { stream, request, buffer: Vec::with_capacity(8192) })
    }

    /// Sends the request, reads the whole answer and returns its status.
    pub(crate) async fn ask(&mut self) -> std::io::Result<u16> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        let broken = || std::io::Error::other("not an answer");
        let (status, end) = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let Some(head) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let text = std::str::from_utf8(&self.buffer[..head]).map_err(|_| broken())?;
            let status =
                text.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
            let length = text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())?
            });
            break (status, head + 4 + length.ok_or_else(broken)?);
        };
        while self.buffer.len() < end {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(status)
    }
}
